"""How a graph is made smaller and faster: the choices that ``tune`` measures and export follows, kept as TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgeroute.bundle.schema import decode
from edgeroute.errors import BundleError


@dataclass(frozen=True, slots=True)
class Recipe:
    """Choices for the int8 graph; the defaults are what most graphs do well with.

    ``per_channel``: a weight scale for each output, not one a matrix. ``reduce_range``: 7-bit weights, since 8-bit
    products saturate without VNNI and scores would differ from CPU to CPU (onnxruntime issue 14642). ``smooth``, 0 to
    1: how much of the outliers behind a normalisation or attention moves into the weights (SmoothQuant, arXiv
    2211.10438), 0 for none. ``wide``: parts of node names whose products stay in float32. ``skip_layer_norm``: whether
    residual and normalisation are one fused operator, which is the slower form on some machines.
    """

    per_channel: bool = True
    reduce_range: bool = True
    smooth: float = 0.0
    wide: tuple[str, ...] = ()
    skip_layer_norm: bool = True


def read_recipe(path: Path) -> Recipe:
    """Read the table ``[int8]`` of a recipe. Raises ``BundleError`` naming all that is wrong with it."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is no recipe: {error}") from None
    problems = [f"{path}: unknown key {key!r}" for key in raw.keys() - {"int8"}]
    found: Recipe | None = decode(Recipe, raw.get("int8", {}), f"{path}: int8", problems)
    if found is not None and not 0 <= found.smooth <= 1:
        problems.append(f"{path}: int8.smooth: expected 0 to 1, found {found.smooth}")
    if problems or found is None:
        raise BundleError("the recipe cannot be followed:\n" + "\n".join(f"  {each}" for each in problems))
    return found


def own_recipe(name: str) -> Recipe:
    """A quantization recipe that lies in this package, by its file's name without ``.toml``."""
    return read_recipe(Path(__file__).parents[1] / "recipes" / f"{name}.toml")


def recipe_text(recipe: Recipe, comments: Iterable[str] = ()) -> str:
    """The TOML of a recipe, ``comments`` above it."""
    lines = [f"# {line}".rstrip() for line in comments]
    lines += ["[int8]", *(f"{each.name} = {_toml(getattr(recipe, each.name))}" for each in fields(recipe))]
    return "\n".join(lines) + "\n"


def describe(recipe: Recipe) -> str:
    """What differs from the defaults, in a few words."""
    usual = asdict(Recipe())
    changed = {name: value for name, value in asdict(recipe).items() if value != usual[name]}
    return ", ".join(f"{name} = {_toml(value)}" for name, value in changed.items()) or "defaults"


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def refuse(recipe: Recipe, kind: str) -> None:
    """Raise ``BundleError`` for a recipe of a kind whose int8 graph is made in its own way."""
    if recipe != Recipe():
        raise BundleError(f"{kind} has one way to an int8 graph, and follows no recipe")
