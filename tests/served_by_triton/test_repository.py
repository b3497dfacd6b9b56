"""``export-triton``: the repository is what the published schema and Triton's backend ask for, whole or not at all."""

from __future__ import annotations

import filecmp
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import FP32, INT8, make_bundle, reseal, sample_prompts
from model_repository import ModelRepository, parse_config
from tritonclient.grpc import model_config_pb2 as schema
from wider_bundles import sample_embeddings

from edgeroute import Router
from edgeroute.errors import BackendError, GraphError, IntegrityError
from edgeroute.triton.config import Settings
from edgeroute.triton.repository import export_repository


def parameters(config: schema.ModelConfig) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_each_graph_becomes_a_model_and_int8_is_never_batched(base_bundle: Path, tmp_path: Path) -> None:
    written = export_repository(base_bundle, tmp_path / "models", settings=Settings(threads=2, queue_delay_us=700))
    assert [(each.model, each.graph, each.batched) for each in written] == [
        ("tiny-int8", INT8, False),
        ("tiny-fp32", FP32, True),
    ]
    int8, fp32 = (parse_config(each.path) for each in written)
    assert int8.max_batch_size == 0
    assert not int8.HasField("dynamic_batching")
    assert [list(each.dims) for each in int8.input] == [[1, -1], [1, -1]]
    assert fp32.max_batch_size == 32
    assert fp32.dynamic_batching.max_queue_delay_microseconds == 700
    assert not any(each.allow_ragged_batch for each in fp32.input)
    assert [list(each.dims) for each in fp32.input] == [[-1], [-1]]
    for config in (int8, fp32):
        assert {each.data_type for each in config.input} == {schema.TYPE_INT64}
        assert [each.data_type for each in config.output] == [schema.TYPE_FP32]
        assert config.version_policy.latest.num_versions == 1
        (group,) = config.instance_group
        assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_CPU, 1)
        assert len(config.model_warmup) == 2
    router = Router.load(base_bundle)
    assert parameters(int8) == {
        "edgeroute.bundle": "tiny",
        "edgeroute.digest": router.manifest.digest,
        "edgeroute.graph": INT8,
        "edgeroute.precision": "int8",
        "edgeroute.padding": "none",
        "intra_op_thread_count": "2",
        "inter_op_thread_count": "1",
    }


def test_the_models_run_as_their_configs_say(
    base_bundle: Path, embedding_bundle: Path, ranking_bundle: Path, tmp_path: Path
) -> None:
    for number, bundle in enumerate((base_bundle, ranking_bundle)):
        export_repository(bundle, tmp_path / str(number))
        models = ModelRepository(tmp_path / str(number)).models
        router = Router.load(bundle)
        for model in models.values():
            ids = np.array([router.loaded.text.encode(sample_prompts(1)[0]).ids])  # type: ignore[union-attr]
            found = model.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})
            assert found["score"].shape == ((1, 1) if model.batch else (1,))
            assert router.manifest.models == () or found["strengths"].shape == (1, len(router.manifest.models))
    export_repository(embedding_bundle, tmp_path / "embedded")
    (model,) = ModelRepository(tmp_path / "embedded").models.values()
    assert model.config.name == "embedded"
    assert [list(each.dims) for each in model.config.input] == [[48]]
    row = sample_embeddings(1)
    assert model.infer({"embedding": row})["score"] == Router.load(embedding_bundle).score_embeddings(row)


def for_cuda(folder: Path, *providers: str) -> Path:
    """The tiny fp32 bundle, its graph for ``providers``."""

    def change(manifest: dict) -> None:
        manifest["graphs"][0]["providers"] = list(providers)

    return make_bundle(folder, precisions=["fp32"], change=change)


def test_a_graph_for_cuda_runs_on_the_gpu_in_warm_buckets(tmp_path: Path) -> None:
    (written,) = export_repository(for_cuda(tmp_path / "b", "cuda"), tmp_path / "m", settings=Settings(instances=2))
    config = parse_config(written.path)
    (group,) = config.instance_group
    assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_GPU, 2)
    assert parameters(config)["edgeroute.padding"] == "buckets"
    assert "intra_op_thread_count" not in parameters(config)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    lengths = [sample.inputs["input_ids"].dims[-1] for sample in config.model_warmup]
    assert lengths == [16, 32]
    ones = np.fromfile(written.path / "warmup" / "ones.16", "<i8")
    assert (ones == 1).all()
    assert len(ones) == 16


def test_a_graph_for_both_devices_becomes_two_models(tmp_path: Path) -> None:
    written = export_repository(for_cuda(tmp_path / "b", "cpu", "cuda"), tmp_path / "m", name="router")
    assert [each.model for each in written] == ["router-fp32-cpu", "router-fp32-cuda"]


def test_no_batching_where_it_is_turned_off(fp32_bundle: Path, tmp_path: Path) -> None:
    (written,) = export_repository(fp32_bundle, tmp_path / "m", settings=Settings(max_batch=0))
    config = parse_config(written.path)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert not written.batched


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_two_exports_are_the_same_bytes(base_bundle: Path, tmp_path: Path) -> None:
    for each in ("a", "b"):
        export_repository(base_bundle, tmp_path / each, settings=Settings(version=7))
    names = tree(tmp_path / "a")
    assert "tiny-int8/7/model.onnx" in names
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False) == (names, [], [])
    assert (tmp_path / "a/tiny-int8/7/model.onnx").read_bytes() == (base_bundle / INT8).read_bytes()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_external_weights_come_along_under_their_name(fp32_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "external"
    folder.mkdir()
    for path in fp32_bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = onnx.load(folder / FP32)
    onnx.save(model, folder / FP32, save_as_external_data=True, location="model.fp32.data", size_threshold=256)
    reseal(folder, lambda manifest: manifest["graphs"][0].update(data="model.fp32.data"))
    (written,) = export_repository(folder, tmp_path / "m")
    assert "1/model.fp32.data" in tree(written.path)
    ModelRepository(tmp_path / "m")  # opens, and warms up with those weights


def test_a_folder_that_holds_something_is_left_alone(base_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "mine").write_text("keep")
    with pytest.raises(BackendError, match="is not empty"):
        export_repository(base_bundle, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert tree(folder) == ["mine"]
    (folder / "mine").unlink()
    export_repository(base_bundle, folder)
    with pytest.raises(BackendError, match="is not a folder"):
        export_repository(base_bundle, folder / "tiny-int8" / "config.pbtxt")


def test_nothing_is_left_where_writing_fails(
    base_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match="cannot be written: No space left on device"):
        export_repository(base_bundle, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_or_broken_bundle_is_refused_before_anything_is_written(bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "m"
    graph = (bundle / INT8).read_bytes()
    (bundle / INT8).write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=INT8):
        export_repository(bundle, target)
    (bundle / INT8).write_bytes(b"no graph")
    reseal(bundle)
    with pytest.raises(GraphError):
        export_repository(bundle, target)
    assert not target.exists()
    with pytest.raises(IntegrityError, match="expected the bundle"):
        export_repository(bundle, target, digest="sha256:" + "0" * 64)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", 'a"b', "a\nb", "é"])
def test_a_name_that_is_no_folder_name_is_refused(fp32_bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BackendError, match="expected a model name"):
        export_repository(fp32_bundle, tmp_path / "m", name=name)


@pytest.mark.parametrize(
    "wrong", [{"version": 0}, {"instances": 0}, {"threads": -1}, {"max_batch": True}, {"queue_delay_us": 1.5}]
)
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(BackendError, match=next(iter(wrong))):
        Settings(**wrong)


def test_a_bundle_version_says_what_it_likes_without_reaching_the_config(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "b", precisions=["fp32"], change=lambda manifest: manifest.update(version='1"\nname: "other"')
    )
    (written,) = export_repository(bundle, tmp_path / "m")
    assert parse_config(written.path).name == "tiny"


def test_the_command(base_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgeroute.cli import main as cli

    assert cli.run(["export-triton", str(base_bundle), str(tmp_path / "m"), "--json", "--instances", "3"]) == 0
    assert [each["model"] for each in json.loads(capsys.readouterr().out)] == ["tiny-int8", "tiny-fp32"]
    assert parse_config(tmp_path / "m" / "tiny-int8").instance_group[0].count == 3
    assert cli.run(["export-triton", str(base_bundle), str(tmp_path / "m")]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert cli.run(["export-triton", str(base_bundle), str(tmp_path / "n"), "--threads", "0"]) == 1
    assert "threads: expected a whole number of 1" in capsys.readouterr().err
    assert cli.run(["export-triton", str(base_bundle), str(tmp_path / "n")]) == 0
    assert "tiny-int8  model.int8.onnx  cpu  never batched" in capsys.readouterr().out
