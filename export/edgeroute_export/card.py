"""The model card: what a manifest says, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeroute.cli.table import markdown

CARD = "README.md"
_FRONT = re.compile(r"---\r?\n(.*?)\r?\n---", re.DOTALL)
_LICENCE = re.compile(r"^licen[sc]e:[ \t]*[\"']?([A-Za-z0-9][\w.+-]*)[\"']?[ \t]*$", re.MULTILINE)


def card(manifest: Mapping[str, Any]) -> str:
    """Markdown from a manifest that lacks ``files`` and ``digest``: purpose, origin, receipts, limits.

    Without latencies, which another machine would not repeat: two exports give the same card.
    """
    strong, weak = manifest["pair"]["strong"], manifest["pair"]["weak"]
    training = manifest["training"]
    parts = [
        f"# {manifest['name']} {manifest['version']}",
        *([manifest["description"]] if manifest["description"] else []),
        _PURPOSE.format(strong=strong, weak=weak, tie=_TIES[training["ties"]], **manifest),
        "## Training",
        f"`{training['command']}`, seed {training['seed']}, base {training['base']}.",
    ]
    if training["data"]:
        rows = ((each["name"], each["rows"], each["sha256"][:16]) for each in training["data"])
        parts.append("\n".join(markdown([("data", "rows", "sha256"), *rows])))
    if manifest.get("quality"):
        head = ("benchmark", "n", "metric", "value", "95% interval")
        parts += ["## Quality", "\n".join(markdown([head, *_quality(manifest)]))]
    for graph in manifest["graphs"]:
        parts += [f"## {graph['file']}", *_graph(graph)]
    return "\n\n".join([*parts, "## Limits", "\n".join(_limits(manifest))]) + "\n"


def card_licence(checkpoint: Path) -> str | None:
    """What a Hugging Face model card in the folder ``checkpoint`` gives as ``license``, or ``None``."""
    try:
        front = _FRONT.match((checkpoint / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    found = _LICENCE.search(front[1]) if front else None
    return found[1] if found else None


def _limits(manifest: Mapping[str, Any]) -> Iterable[str]:
    if given := manifest.get("input"):
        yield f"- It takes embeddings of width {given['width']} ({manifest['training']['base']}), not text."
    if ranked := manifest.get("models"):
        yield f"- It ranks {len(ranked)} models by `strengths`; its score is of the pair above."
    else:
        yield "- It speaks of one pair of models. For others it ranks prompts, and the probability is not theirs."
    for graph in manifest["graphs"]:
        sample = graph["calibration"]
        yield f"- Strong shares of {graph['file']} are those of {sample['n']} prompts ({sample['sample']})."
    yield _GENERAL


_PURPOSE = """An edgeroute router of the kind `{kind}`. Its score is the probability that {strong} answers a prompt
better than {weak}; a tie counts as {tie}. Licence of the weights: {licence}."""
_TIES = {"half": "one half", "weak": "no win"}
_OURS = """- It was trained and measured on English exam questions, word problems and chat; elsewhere measure it first
  (`edgeroute evaluate`), and calibrate it on your own prompts."""
_FOREIGN = """- What it was trained on is not recorded here: measure it first (`edgeroute evaluate`), and calibrate it
  on your own prompts."""
_GENERAL = """- On prompts unlike those above measure it first (`edgeroute evaluate`), and calibrate it on your own.
- A learned router can be steered by a prompt that is written to steer it. It decides what a call costs, never what is
  allowed."""


def _quality(manifest: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    for each in manifest["quality"]:
        yield f"{each['benchmark']} {each['split']}", each["n"], each["metric"], each["value"], _interval(each)


def _interval(each: Mapping[str, Any]) -> str:
    return f"{each['low']} to {each['high']}"


def _graph(graph: Mapping[str, Any]) -> list[str]:
    found = [f"Precision {graph['precision']}, for {', '.join(graph['providers'])}."]
    if parity := graph.get("parity"):
        found.append(_parity(parity))
    if stability := graph.get("stability"):
        found.append(_stability(stability))
    if embedding := graph.get("embedding"):
        found.append(f"It gives embeddings of width {embedding['width']} (`Router.embed`).")
    return found


def _stability(stability: Mapping[str, Any]) -> str:
    flips = [each["0.5"] for each in stability["rewordings"].values()]
    return (
        f"A harmless rewording changes {sum(flips) / len(flips):.1%} of decisions at a strong share of 50%, the worst "
        f"of {len(flips)} {max(flips):.1%} ({stability['n']} prompts, {stability['sample']})."
    )


def _parity(parity: Mapping[str, Any]) -> str:
    if parity["max_abs"] is None:
        return f"Parity: reference {parity['reference']}; there was nothing to compare its scores with."
    said = (
        f"Against {parity['reference']} on {parity['n']} prompts ({parity['sample']}): largest difference of a "
        f"score {parity['max_abs']}, rank correlation {parity['rank_correlation']}"
    )
    bounds = parity.get("flip_intervals") or {}
    flips = [
        f"{100 * value:.1f}% at {share}"
        + (f" ({100 * bounds[share]['low']:.1f}% to {100 * bounds[share]['high']:.1f}%)" if share in bounds else "")
        for share, value in parity["flips"].items()
    ]
    if flips:
        said += f"; decisions changed by strong share: {', '.join(flips)}"
    if change := parity.get("delta_apgr"):
        said += f"; change of APGR {change['value']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
    if parity.get("claim") == "numerical parity only":
        said += "; numerical parity only, no shares are promised"
    return f"{said}."
