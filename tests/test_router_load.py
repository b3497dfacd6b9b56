"""Loading a router: graph, digest, chat policy, threads, golden scores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from bundles import (
    FP32,
    GOLDEN,
    INT8,
    WORDS,
    make_bundle,
    make_tokenizer,
    reseal,
    sample_prompts,
    set_tokenizer,
    with_data,
)

from edgeroute.bundle.folder import open_bundle
from edgeroute.errors import (
    BundleError,
    BundleNotFoundError,
    GoldenWarning,
    IntegrityError,
    PromptError,
    ProviderError,
)
from edgeroute.router import Router

PROMPTS = sample_prompts(30, seed=8)


def test_the_default_graph_is_the_first_for_the_provider(base_bundle: Path) -> None:
    router = Router.load(base_bundle, provider="cpu")
    assert (router.graph.file, router.provider, router.provider_reason) == (INT8, "cpu", "CPU")
    assert router.manifest.name == "tiny"


def test_the_order_of_graphs_is_one_of_preference(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", precisions=["fp32", "int8"])
    assert Router.load(folder).graph.file == FP32


def test_a_digest_pins_the_bundle(base_bundle: Path) -> None:
    digest = open_bundle(base_bundle).manifest.digest
    assert Router.load(base_bundle, digest=digest).manifest.digest == digest
    with pytest.raises(IntegrityError, match="expected the bundle sha256:0"):
        Router.load(base_bundle, digest="sha256:" + "0" * 64)


def test_the_chat_policy_may_be_overridden_and_the_decision_says_so(base_bundle: Path) -> None:
    chat = [{"role": "user", "content": "prove"}, {"role": "assistant", "content": "milk"}]
    override = Router.load(base_bundle, chat="last_message")
    assert override.choose(chat).chat == "last_message"
    assert override.score(chat) == override.score("milk")
    assert Router.load(base_bundle).chat == "asks"
    assert Router.load(base_bundle).choose(chat).chat is None
    assert Router.load(base_bundle, chat="last_user").choose(chat).chat == "last_user"
    with pytest.raises(PromptError, match="expected a chat policy"):
        Router.load(base_bundle, chat="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
def test_threads_are_a_positive_number(base_bundle: Path, threads: Any) -> None:
    with pytest.raises(ProviderError, match="expected at least one thread, found"):
        Router.load(base_bundle, threads=threads)


def test_threads_are_kept(base_bundle: Path) -> None:
    assert Router.load(base_bundle, threads=3).threads == 3


@pytest.mark.parametrize("spinning", [False, True])
def test_threads_spin_on_request_alone(base_bundle: Path, monkeypatch: pytest.MonkeyPatch, spinning: bool) -> None:
    made: list[str] = []

    class Noted(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, graph: bytes, options: Any, **keywords: Any) -> None:
            super().__init__(graph, options, **keywords)
            made.append(options.get_session_config_entry("session.intra_op.allow_spinning"))

    monkeypatch.setattr(onnxruntime, "InferenceSession", Noted)
    _ = Router.load(base_bundle, spinning=spinning) if spinning else Router.load(base_bundle)
    assert made == [str(int(spinning))]


def test_an_unknown_provider_is_refused(base_bundle: Path) -> None:
    with pytest.raises(ProviderError, match="expected a provider of auto, cpu, cuda or tensorrt, found 'tpu'"):
        Router.load(base_bundle, provider="tpu")  # type: ignore[arg-type]


def test_a_missing_bundle_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError):
        Router.load(tmp_path / "none")


def test_external_data_is_loaded_from_the_bundle(fp32_bundle: Path, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", precisions=["fp32"])
    graph, data = with_data()
    (folder / "model.data").write_bytes(data)
    (folder / FP32).write_bytes(graph)
    reseal(folder, lambda manifest: manifest["graphs"][0].update(data="model.data"))
    expected = Router.load(fp32_bundle).score_batch(PROMPTS)
    assert Router.load(folder).score_batch(PROMPTS).tolist() == expected.tolist()


def test_a_router_of_a_template_scores_the_templated_text(tmp_path: Path) -> None:
    router = Router.load(make_bundle(tmp_path / "b", text={"template": "question : {prompt}"}))
    plain = Router.load(make_bundle(tmp_path / "c"))
    assert router.score("prove it") == plain.score("question : prove it")


def test_loading_takes_no_second(base_bundle: Path) -> None:
    start = time.perf_counter()
    Router.load(base_bundle)
    assert time.perf_counter() - start < 1


# Golden scores.


def test_golden_differences_are_zero_where_the_bundle_was_made(router: Router) -> None:
    assert router.golden_differences() == [0.0] * len(GOLDEN)
    assert len(router.golden_differences(3)) == 3


def test_a_golden_prompt_that_does_not_score_is_a_bundle_error(bundle: Path) -> None:
    def hide(manifest: dict[str, Any]) -> None:
        manifest["graphs"][0]["golden"]["scores"][1]["prompt"] = " " * 17_000 + "x" + " " * 17_000

    reseal(bundle, hide)
    with pytest.raises(BundleError, match="a golden prompt of the manifest does not score: the prompt is empty"):
        Router.load(bundle)


def test_changing_the_tokenizer_changes_the_golden_scores(bundle: Path) -> None:
    set_tokenizer(bundle, make_tokenizer(WORDS[::-1]))
    with pytest.warns(GoldenWarning):
        Router.load(bundle)
