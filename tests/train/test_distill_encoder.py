"""A small encoder in a large one's place: what it keeps of the teacher, what it learns, and what a run survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import WORDS  # noqa: E402
from click.testing import CliRunner, Result  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_bert import make_bert  # noqa: E402

from edgeroute import BundleError  # noqa: E402
from edgeroute.bundle.manifest import TextPolicy  # noqa: E402
from edgeroute_train import embeddings, run_state, small_encoder  # noqa: E402
from edgeroute_train.classifier import held_out  # noqa: E402
from edgeroute_train.commands import distill, train  # noqa: E402
from edgeroute_train.small_encoder import Shape  # noqa: E402

POLICY = TextPolicy(32, "head_tail", "last_user")
IDS = [[2, 9, 8, 7, 3], [2, 5, 3]]
RUN = ("--max-tokens", 32, "--dropout", 0.0, "--learning-rate", 2e-3, "--save-every", 7, "--batch", 16)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of a few words, some of them held out."""
    rng = np.random.default_rng(0)
    lines = {" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(300)}
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT whose second layer matters: as drawn, layers change next to nothing."""
    from transformers import AutoModel

    folder = make_bert(tmp_path_factory.mktemp("teacher") / "encoder")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for name, weight in model.encoder.named_parameters():
            if weight.dim() == 2:
                weight.mul_(10 if "dense" in name else 20)
    model.save_pretrained(folder)
    return folder


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(distill, ["encoder", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(teacher: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of one layer, ReLU, and half the neurons."""
    output = tmp_path_factory.mktemp("made") / "encoder"
    shape = ("--layers", 1, "--activation", "relu", "--feed-forward", 64)
    result = run("--prompts", prompts, "--encoder", teacher, "--output", output, "--epochs", 12, *shape, *RUN)
    assert result.exit_code == 0, result.output
    return output


def hidden(model: Any) -> Any:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(IDS[:1]), output_hidden_states=True).hidden_states


def test_a_student_starts_as_the_teachers_first_layers(bert: Path) -> None:
    from transformers import AutoModel

    whole, student = hidden(AutoModel.from_pretrained(bert)), hidden(small_encoder.make_encoder(str(bert), Shape(1)))
    assert len(student) == 2
    torch.testing.assert_close(student[1], whole[1])


def test_neurons_that_do_nothing_are_the_first_to_go(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    teacher = AutoModel.from_pretrained(bert)
    idle = torch.arange(0, 128, 2)
    for layer in teacher.encoder.layer:
        layer.output.dense.weight.data[:, idle] = 0
    teacher.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    student = small_encoder.make_encoder(str(tmp_path), Shape(2, feed_forward=64))
    assert student.encoder.layer[0].intermediate.dense.weight.shape == (64, 64)
    torch.testing.assert_close(hidden(student)[-1], hidden(teacher)[-1])


def test_what_is_written_is_an_encoder_like_any_other(made: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(made)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_act, config.intermediate_size) == (1, "relu", 64)
    first, again = (embeddings.load_encoder(str(made), POLICY) for _ in range(2))
    assert first.digest == again.digest  # nothing in it is drawn anew at every load
    assert not (made / "training.pt").exists()


def test_it_comes_nearer_to_the_teacher_on_prompts_held_out(made: Path, teacher: Path, prompts: Path) -> None:
    held = [each for each in prompts.read_text(encoding="utf-8").splitlines() if held_out(each)]
    assert len(held) >= 3
    whole, student = (embeddings.load_encoder(str(each), POLICY) for each in (teacher, made))
    cut = small_encoder.make_encoder(str(teacher), Shape(1, "relu", 64)).eval()
    rows = [whole.text.encode(prompt).ids for prompt in held]
    with torch.no_grad():
        wanted, before, after = (
            torch.nn.functional.normalize(embeddings.pool_rows(each, rows), dim=1)
            for each in (whole, replace(whole, model=cut), student)
        )
    cosine = float((after * wanted).sum(1).mean())
    assert 1 - cosine < 0.5 * (1 - float((before * wanted).sum(1).mean()))
    record = json.loads((made / "edgeroute.json").read_text())
    assert record["metrics"]["cosine"] == pytest.approx(cosine, abs=1e-3)
    assert record["metrics"]["losses"][-1] < record["metrics"]["losses"][0]


def test_the_record_says_how_it_was_made_and_names_no_path(made: Path, teacher: Path, prompts: Path) -> None:
    text = (made / "edgeroute.json").read_text()
    record = json.loads(text)
    assert record["shape"] == {"layers": 1, "activation": "relu", "feed_forward": 64, "heads": None, "pooling": None}
    assert record["training"]["base"] == "encoder (local copy)"
    assert record["training"]["teacher"] == embeddings.load_encoder(str(teacher), POLICY).digest
    assert [each["name"] for each in record["training"]["data"]] == ["prompts"]
    for path in sorted(made.glob("*.json")):
        written = path.read_text(encoding="utf-8")
        assert str(teacher.parent) not in written, path.name
        assert str(prompts.parent) not in written, path.name


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_padded_batch_embeds_as_its_rows_do(bert: Path, pooling: Any) -> None:
    from edgeroute_train.classifier_models import padded

    student = small_encoder.Embedder(small_encoder.make_encoder(str(bert), Shape(2)).eval(), pooling)
    with torch.no_grad():
        together = student.embed(*padded(IDS))
        alone = torch.cat([student.embed(*padded([row])) for row in IDS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


def test_the_first_token_alone_learns_the_teachers_mean(teacher: Path, prompts: Path, tmp_path: Path) -> None:
    shape = ("--layers", 2, "--pooling", "cls", "--heads", 2)
    result = run("--prompts", prompts, "--encoder", teacher, "--output", tmp_path / "e", "--epochs", 12, *shape, *RUN)
    assert result.exit_code == 0, result.output
    student, whole = (embeddings.load_encoder(str(each), POLICY) for each in (tmp_path / "e", teacher))
    assert (student.pooling, whole.pooling) == ("cls", "mean")
    assert student.model.config.num_attention_heads == 2
    held = [each for each in prompts.read_text(encoding="utf-8").splitlines() if held_out(each)]
    found, wanted = embeddings.embed(student, held), embeddings.embed(whole, held)
    rows = [student.text.encode(prompt).ids for prompt in held]
    with torch.no_grad():
        first = [student.model(input_ids=torch.tensor([row])).last_hidden_state[0, 0].numpy() for row in rows]
    np.testing.assert_allclose(found, np.stack(first), atol=1e-5)
    cut = replace(whole, model=small_encoder.make_encoder(str(teacher), Shape(2, heads=2)).eval(), pooling="cls")
    assert _cosine(found, wanted) > _cosine(embeddings.embed(cut, held), wanted) + 0.05


def _cosine(found: Any, wanted: Any) -> float:
    products = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    return float(products.mean())


def test_sentence_transformers_files_say_how_it_pools(bert: Path, tmp_path: Path) -> None:
    for pooling in ("mean", "cls"):
        out = tmp_path / pooling
        result = run("--encoder", bert, "--layers", 1, "--epochs", 0, "--pooling", pooling, "--output", out)
        assert result.exit_code == 0, result.output
        assert embeddings.read_pooling(out) == pooling
        chain = [each["type"].rsplit(".")[-1] for each in json.loads((out / "modules.json").read_text())]
        assert chain == ["Transformer", "Pooling", "Normalize"]
    assert embeddings.read_pooling(bert) == "mean"  # says nothing
    again = run("--encoder", tmp_path / "cls", "--layers", 1, "--epochs", 0, "--output", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert embeddings.read_pooling(tmp_path / "again") == "cls"  # as its teacher


def test_heads_that_do_not_divide_the_width_are_refused(bert: Path) -> None:
    with pytest.raises(BundleError, match="5 heads do not divide the encoder's width, 64"):
        small_encoder.make_encoder(str(bert), Shape(1, heads=5))


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ('{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}', "max_tokens and mean"),
        ('{"pooling_mode_cls_token": false}', "nothing"),
        ("[", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_another_way_to_pool_is_refused(bert: Path, tmp_path: Path, said: str, named: str) -> None:
    shutil.copytree(bert, tmp_path / "encoder")
    (tmp_path / "encoder" / "1_Pooling").mkdir()
    (tmp_path / "encoder" / "1_Pooling" / "config.json").write_text(said)
    with pytest.raises(BundleError, match=named):
        embeddings.load_encoder(str(tmp_path / "encoder"), POLICY)


def test_a_factorization_trains_on_it(made: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[[labels]]\nfile = "{labels[1].name}"\nkind = "outcomes"\n')
    arguments = [recipe, "--labels", labels[1].parent, "--encoder", made, "--output", tmp_path / "mf", "--steps", 5,
                 "--gate-shift", 4]  # fmt: skip
    result = CliRunner().invoke(train, ["mf", "--max-tokens", "32", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "mf" / "mf.json").read_text())
    assert config["settings"]["gate_shift"] == 4
    assert config["encoder"]["digest"] == embeddings.load_encoder(str(made), POLICY).digest


def test_without_epochs_the_encoder_is_only_cut(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    result = run("--encoder", bert, "--layers", 1, "--epochs", 0, "--output", tmp_path / "cut")
    assert result.exit_code == 0, result.output
    torch.testing.assert_close(
        hidden(AutoModel.from_pretrained(tmp_path / "cut"))[1], hidden(AutoModel.from_pretrained(bert))[1]
    )


def test_labels_teach_their_prompts_alone(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    for name, winner in (("x.jsonl", "a"), ("y.jsonl", "b")):
        rows = [{"prompt": f"tea {i} river", "model_a": "m", "model_b": "n", "winner": winner, "split": "train"}
                for i in range(40)]  # fmt: skip
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = run("--battles", tmp_path / name, "--encoder", bert, "--output", tmp_path / winner, "--epochs", 1,
                     "--layers", 1, *RUN)  # fmt: skip
        assert result.exit_code == 0, result.output
    one, other = (load_file(tmp_path / winner / "model.safetensors") for winner in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_killed_and_resumed_ends_as_if_never_killed(bert: Path, prompts: Path, tmp_path: Path) -> None:
    arguments = ["distill", "encoder", "--prompts", prompts, "--encoder", bert, "--layers", 1, "--epochs", 10, *RUN]
    command = [sys.executable, "-m", "edgeroute", *map(str, arguments), "--output"]
    state = tmp_path / "killed" / "training.pt"
    single = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL, env=single)
    while first.poll() is None and not (state.exists() and _step(state) >= 7):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "config.json").exists()
    again = [
        subprocess.run([*command, str(tmp_path / name)], capture_output=True, env=single)
        for name in ("killed", "whole")
    ]
    assert [each.returncode for each in again] == [0, 0], again[0].stderr
    killed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def _step(state: Path) -> int:
    return int(torch.load(state, weights_only=True)["step"])


def test_a_checkpoint_of_another_run_is_refused(bert: Path, prompts: Path, tmp_path: Path) -> None:
    run_state.save_state(tmp_path, {"kind": "encoder", "shapes": "others"}, {"step": 3})
    result = run("--prompts", prompts, "--encoder", bert, "--output", tmp_path, "--layers", 1, *RUN)
    assert "the checkpoint is of another run: shapes" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", 3), "the encoder has 2 layers"),
        (("--layers", 1, "--feed-forward", 129), "the encoder has 128 neurons"),
    ],
)
def test_shapes_that_the_teacher_has_not(
    options: tuple[Any, ...], message: str, bert: Path, prompts: Path, tmp_path: Path
) -> None:
    result = run("--prompts", prompts, "--encoder", bert, "--output", tmp_path / "out", *options)
    assert isinstance(result.exception, BundleError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_no_encoder_no_prompts_no_second_run(bert: Path, made: Path, prompts: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    cases = [
        (
            ("--prompts", prompts, "--encoder", tmp_path / "no", "--output", tmp_path / "o"),
            "local folder or a hub name",
        ),
        (
            ("--prompts", empty, "--encoder", bert, "--layers", 1, "--output", tmp_path / "o"),
            "no prompts to learn from",
        ),
        (
            ("--prompts", prompts, "--encoder", bert, "--output", made),
            "holds a finished checkpoint (edgeroute.json): choose another --output",
        ),
    ]
    for arguments, message in cases:
        assert message in str(run(*arguments).exception)
    assert run("--encoder", bert, "--output", tmp_path / "o").exit_code == 2


def test_a_decoder_is_no_teacher_of_this_kind(tmp_path: Path, prompts: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=16, num_hidden_layers=2).save_pretrained(tmp_path)
    result = run("--prompts", prompts, "--encoder", tmp_path, "--layers", 1, "--output", tmp_path / "o")
    assert "not a BERT-like encoder" in str(result.exception)
