"""Train and export the tiny checkpoint: shared by the fixtures and the tests that do it again."""

from __future__ import annotations

import shutil
from pathlib import Path

GATES = """
[[gates]]
gate = "choice"
member = true
file = "outcomes.jsonl"
kind = "outcomes"
matching = "Answer"

[[gates]]
gate = "choice"
member = false
file = "outcomes.jsonl"
kind = "outcomes"
unlike = "Answer"

[[gates]]
gate = "quantitative"
member = true
file = "battles.jsonl.gz"
kind = "battles"
matching = "theorem|matrix"

[[gates]]
gate = "quantitative"
member = false
file = "battles.jsonl.gz"
kind = "battles"
unlike = "theorem|matrix"
"""
RECIPE = """
bias_from = "outcomes.jsonl"

[[labels]]
file = "battles.jsonl.gz"
kind = "battles"

[[labels]]
file = "outcomes.jsonl"
kind = "outcomes"
weight = 2.0
pairs = [["big", "small"]]
random_pairs = 2
"""


def train(form: str, bert: Path, labels: tuple[Path, Path], output: Path) -> Path:
    """Train a ``plain`` or a ``gated`` factorization on the tiny labels, or a gated one on the ``first`` token."""
    from edgeroute_train.mf import Settings
    from edgeroute_train.mf_run import train_mf
    from edgeroute_train.read_recipe import Place
    from edgeroute_train.recipe import read_recipe

    recipe = output.parent / f"{form}.toml"
    recipe.write_text(RECIPE + ("" if form == "plain" else GATES))
    if form == "first":
        bert = shutil.copytree(bert, output.parent / "encoder")
        (bert / "1_Pooling").mkdir()
        (bert / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    settings = Settings(width=16, decay=1e-4, steps=60)
    return train_mf(read_recipe(recipe), Place(labels[0].parent, str(bert)), output, settings=settings, max_tokens=32)


def export(checkpoint: Path, bert: Path, labels: tuple[Path, Path], output: Path, **changes: object) -> Path:
    """Export the tiny checkpoint with an int8 and an fp32 graph."""
    from edgeroute_export.build import build_bundle
    from edgeroute_export.evidence import Evidence, Naming
    from edgeroute_export.kinds import mf

    battles, outcomes = labels
    arguments: dict[str, object] = {
        "pair": ("big", "small"),
        "naming": Naming("tiny-mf", "0.1.0", "A test."),
        "evidence": Evidence(battles, outcomes, (outcomes,), check_rows=60),
        "precisions": ("int8", "fp32"),
    } | changes
    encoder, strengths = str(arguments.pop("encoder", bert)), bool(arguments.pop("strengths", False))
    router = mf.trace(checkpoint, arguments["pair"], encoder=encoder, strengths=strengths)  # type: ignore[arg-type]
    build_bundle(router, output, **arguments)  # type: ignore[arg-type]
    return output
