"""The latency benchmark's contenders compute what PyTorch computes, and one that does not is no contender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from classifiers import train_tiny
from latency_scripts import load_script

PROMPTS = ["hello", "What is the capital of Peru?", "Answer B) tea C) train", "prove the theorem " * 30]
PAIR = ("big", "small")


@pytest.fixture(scope="module")
def scripts() -> Any:
    for name in ("heads", "weights", "contenders"):
        load_script(name)
    return load_script("contenders")


@pytest.fixture(scope="module")
def factorization(checkpoint: Path, bert: Path, scripts: Any) -> Any:
    return load_script("weights").weights_of("tiny", checkpoint, bert, PAIR, 32)


def names(contenders: list[Any]) -> set[str]:
    return {each.name for each in contenders}


@pytest.mark.filterwarnings("ignore")  # of optimum, OpenVINO and their kin, which are not ours
def test_every_contender_agrees_with_the_published_formula(factorization: Any, scripts: Any, tmp_path: Path) -> None:
    expected = load_script("weights").reference(factorization, PROMPTS)
    found = scripts.make_contenders(factorization, 1, tmp_path)
    assert {
        f"tiny: {each}" for each in ("PyTorch fp32", "PyTorch bf16", "onnxruntime fp32", "optimum pipeline")
    } <= names(found)
    for each in found:
        limit = 1e-4 if each.precision == "fp32" else 0.05
        assert scripts.disagreement(each, PROMPTS, expected) < limit, each.name


@pytest.mark.filterwarnings("ignore")
def test_a_classifier_has_contenders_too(bert: Path, labels: tuple[Path, Path], scripts: Any, tmp_path: Path) -> None:
    checkpoint = train_tiny("bert", bert, labels, tmp_path / "bert", epochs=1)
    weights = load_script("weights").weights_of("tiny", checkpoint, None, PAIR, 32)
    expected = load_script("weights").reference(weights, PROMPTS)
    for each in scripts.make_contenders(weights, 1, tmp_path):
        limit = 1e-4 if each.precision == "fp32" else 0.05
        assert scripts.disagreement(each, PROMPTS, expected) < limit, each.name


def test_a_teacher_runs_in_pytorch_alone(factorization: Any, scripts: Any, tmp_path: Path) -> None:
    found = scripts.make_contenders(factorization, 1, tmp_path, torch_only=True)
    assert names(found) == {"tiny: PyTorch fp32", "tiny: PyTorch bf16"}


def test_what_computes_something_else_is_refused(factorization: Any, scripts: Any) -> None:
    expected = load_script("weights").reference(factorization, PROMPTS)
    for wrong in (lambda _: 0.9, lambda _: float("nan")):
        with pytest.raises(SystemExit, match="wrong computes something else"):
            scripts.disagreement(scripts.Contender("wrong", "fp32", wrong), PROMPTS, expected)


def test_the_numpy_head_is_the_published_formula(factorization: Any, bert: Path, scripts: Any) -> None:
    """The head alone, on random means and ids with option letters among them."""
    import torch

    from edgeroute_export.kinds.encoder import load_encoder
    from edgeroute_formats.checkpoints import read_mf
    from edgeroute_formats.gates import token_table
    from edgeroute_formats.reference import score_mf

    trained = read_mf(factorization.checkpoint)
    head = load_script("weights").head_of(factorization)
    _, data = load_encoder(str(bert))
    table = token_table(data, trained.config["gates"]["token_classes"]) if trained.gated else None
    rng = np.random.default_rng(0)
    for length in (3, 9, 31):
        mean, ids = rng.normal(size=64).astype(np.float32), rng.integers(0, 100, length)
        (expected,) = score_mf(trained, PAIR, torch.tensor(mean[None]), [ids.tolist()], table)
        assert head(mean, ids) == pytest.approx(float(expected), abs=1e-5)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, checkpoint: Path, scripts: Any) -> None:
    for wrong in (tmp_path, checkpoint):  # nothing at all; a factorization without its encoder
        with pytest.raises(SystemExit, match="expected a matrix factorization with its encoder"):
            load_script("weights").weights_of("x", wrong, None, PAIR, 32)
