"""Who may import whom: a room imports what stands below it in the table, never above; read from the source."""

from __future__ import annotations

import ast
import graphlib
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down, as docs/architecture.md draws it; export/ and models/ hold packages of their own.
# fmt: off
ROOMS = [
    "edgeroute_fit", "edgeroute_train", "edgeroute_export", "edgeroute_formats", "edgeroute.__main__", "edgeroute.cli",
    "edgeroute.server", "edgeroute.bulk", "edgeroute", "edgeroute.gateway", "edgeroute.traffic",
    "edgeroute.evaluation", "edgeroute.bench", "edgeroute.score_lines", "edgeroute.router", "edgeroute.triton",
    "edgeroute.data", "edgeroute.engine", "edgeroute.decision", "edgeroute.bundle", "edgeroute.net",
    "edgeroute.errors", "edgeroute._version", "edgeroute_models",
]
# fmt: on
APART = {("edgeroute_train", "edgeroute_export"), ("edgeroute_fit", "edgeroute_train")}
"""Rooms side by side: neither imports the other."""
ONLY = {"onnxruntime": "edgeroute.engine", "tokenizers": "edgeroute.engine", "click": "edgeroute.cli"} | {
    "requests": "edgeroute.bundle",
    "starlette": "edgeroute.server",
    "uvicorn": "edgeroute.server",
    "tritonclient": "edgeroute.triton",
    "pyarrow": "edgeroute.bulk",
    "ray": "edgeroute.bulk",
}
"""Packages that one room of the runtime imports; what a user without its extra can import stays clear of them."""
HEAVY = {"torch", "onnx", "transformers", "optimum", "sklearn", "scipy", "pandas"}


def room_of(name: str) -> str | None:
    """The room in which a module lies; ``None`` where it is somebody else's."""
    return max((room for room in ROOMS if f"{name}.".startswith(f"{room}.")), key=len, default=None)


def imports() -> list[tuple[str, str]]:
    """Every (module, what it imports) of the packages, wherever in the file the statement is."""
    found = []
    for path in itertools.chain(*((ROOT / root).glob("edgeroute*/**/*.py") for root in (".", "export", "models"))):
        relative = path.relative_to(
            next(root for root in (ROOT / "export", ROOT / "models", ROOT) if root in path.parents)
        )
        package = ".".join(relative.parts[:-1])
        module = package if path.stem == "__init__" else f"{package}.{path.stem}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package.rsplit(".", node.level - 1)[0] if node.level else ""
                source = ".".join(filter(None, (base, node.module)))
                found += [(module, f"{source}.{alias.name}") for alias in node.names]
    return found


IMPORTS = imports()


def test_no_room_imports_upward() -> None:
    arrows = {(room_of(here), room_of(there)) for here, there in IMPORTS} - {(room, room) for room in ROOMS}
    inner = {(here, there) for here, there in arrows if here and there}
    assert len(inner) > 60
    assert {(here, there) for here, there in inner if ROOMS.index(here) > ROOMS.index(there)} == set()
    assert not inner & (APART | {(there, here) for here, there in APART})


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {here for here, _ in IMPORTS}
    arrows: dict[str, set[str]] = {}
    for here, there in IMPORTS:
        found = there if there in modules else there.rpartition(".")[0]
        if found in modules - {here, "edgeroute"}:
            arrows.setdefault(here, set()).add(found)
    list(graphlib.TopologicalSorter(arrows).static_order())


def test_heavy_packages_and_extras_are_imported_where_they_belong() -> None:
    runtime = [(room_of(here), there.split(".")[0]) for here, there in IMPORTS if here.startswith("edgeroute.")]
    assert {(here, there) for here, there in runtime if there in HEAVY} == set()
    for package, room in ONLY.items():
        assert {here for here, there in runtime if there == package} == {room}, package


def test_the_top_of_the_runtime_is_eight_files_at_most() -> None:
    assert len(list((ROOT / "edgeroute").glob("*.py"))) <= 8


@pytest.mark.parametrize("path", sorted((ROOT / "edgeroute").glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_says_what_it_is_for_and_imports_no_module_of_ours(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    assert ours == []
