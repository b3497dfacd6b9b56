"""Export the tiny checkpoint: shared by the fixtures and the tests that export it again."""

from __future__ import annotations

from pathlib import Path


def export(checkpoint: Path, bert: Path, labels: tuple[Path, Path], output: Path, **changes: object) -> Path:
    """Export the tiny checkpoint with an int8 and an fp32 graph."""
    from edgeroute_export.build import Evidence, Naming, export_mf

    battles, outcomes = labels
    arguments: dict[str, object] = {
        "pair": ("big", "small"),
        "naming": Naming("tiny-mf", "0.1.0", "A test."),
        "evidence": Evidence(battles, outcomes, (outcomes,), check_rows=60),
        "encoder": str(bert),
        "precisions": ("int8", "fp32"),
    }
    export_mf(checkpoint, output, **(arguments | changes))  # type: ignore[arg-type]
    return output
