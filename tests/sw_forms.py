"""Recipes and runs of similarity-weighted ranking on the tiny labels, shared by training and export tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporting import GATES

if TYPE_CHECKING:
    from edgeroute_train.sw import Settings

RECIPE = """
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
__all__ = ["FORMS", "GATES", "RECIPE", "settings_of", "train"]
FORMS = ("plain", "gated", "compat")


def settings_of(form: str) -> Settings:
    """RouteLLM's form without its bug, ours, and RouteLLM's with it."""
    from edgeroute_train.sw import Settings, routellm

    # Two tiers for three models: some battles are within one.
    return {
        "plain": Settings(sharpness=1.0, centre=False),
        "gated": Settings(),
        "compat": routellm(tiers=2),
    }[form]


def train(form: str, bert: Path, labels: tuple[Path, Path], output: Path) -> Path:
    """Train a form on the tiny labels; ``gated`` and ``compat`` read the recipe with gates."""
    from edgeroute_train.read_recipe import Place
    from edgeroute_train.recipe import read_recipe
    from edgeroute_train.sw import train_sw

    output.parent.mkdir(parents=True, exist_ok=True)
    recipe = output.parent / f"{form}.toml"
    recipe.write_text(RECIPE + ("" if form == "plain" else GATES))
    place = Place(labels[0].parent, str(bert))
    return train_sw(read_recipe(recipe), place, output, settings=settings_of(form), max_tokens=32)
