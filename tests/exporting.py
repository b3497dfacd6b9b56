"""Export the tiny checkpoint: shared by the fixtures and the tests that export it again."""

from __future__ import annotations

from pathlib import Path


def export(checkpoint: Path, bert: Path, labels: tuple[Path, Path], output: Path, **changes: object) -> Path:
    """Export the tiny checkpoint with an int8 and an fp32 graph."""
    from edgeroute_export import mf
    from edgeroute_export.build import Evidence, Naming, build_bundle

    battles, outcomes = labels
    arguments: dict[str, object] = {
        "pair": ("big", "small"),
        "naming": Naming("tiny-mf", "0.1.0", "A test."),
        "evidence": Evidence(battles, outcomes, (outcomes,), check_rows=60),
        "precisions": ("int8", "fp32"),
    } | changes
    encoder = str(arguments.pop("encoder", bert))
    router = mf.trace(checkpoint, arguments["pair"], encoder=encoder)  # type: ignore[arg-type]
    build_bundle(router, output, **arguments)  # type: ignore[arg-type]
    return output
