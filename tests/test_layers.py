"""The arrows between modules: who may import whom, read from the source with ``ast``."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import edgeroute

ROOT = Path(edgeroute.__file__).parent
FOLDERS = ROOT.parent

# The core, from the inside out: each module and the modules it may import. Nothing here may import what is not here.
CORE = {
    "errors": set(),
    "strict": set(),
    "machine": set(),
    "graph": {"errors"},
    "receipts": set(),
    "manifest": {"errors", "receipts", "strict"},
    "bundle": {"errors", "manifest"},
    "calibration": {"errors", "receipts"},
    "store": {"errors", "manifest"},
    "text": {"errors", "manifest"},
    "contract": {"errors", "manifest"},
    "decision": {"manifest"},
    "embeddings": {"errors"},
    "recalibration": {"errors", "manifest", "receipts", "strict"},
    "ranking": {"errors"},
    "buckets": {"errors"},
    "providers": {"errors", "machine"},
    "lanes": set(),
    "session": {"buckets", "contract", "errors", "graph", "lanes", "machine", "manifest", "pace", "providers"},
    "golden": {"embeddings", "errors", "receipts", "session", "text"},
    "loading": {"buckets", "bundle", "contract", "errors", "manifest", "providers", "session", "store", "text"},
    "roads": {"bundle", "calibration", "decision", "errors", "loading", "manifest", "session", "store", "text"},
    "router": {
        *("errors", "manifest", "bundle", "calibration", "contract", "embeddings", "golden", "loading", "ranking"),
        *("decision", "recalibration", "roads", "session", "store", "text", "triton"),
    },
}
# What may import the module on the left; the rest of the world may not.
ONLY = {
    "onnxruntime": {"providers"},
    "tokenizers": {"text"},
    "click": {"cli"},
    "requests": {"fetch"},
    "urllib3": {"fetch"},
    "aiohttp": {"transport", "triton"},
    "yarl": {"transport"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "prometheus_client": {"server"},
    "tritonclient": {"triton"},
    "pyarrow": {"bulk"},
    "ray": {"bulk"},
}
NEVER = {
    "torch",
    "onnx",
    "transformers",
    "optimum",
    "edgeroute_export",
    "edgeroute_train",
    "sklearn",
    "scipy",
    "pandas",
}


def imports(path: Path, package: str) -> set[str]:
    """Absolute names of all that a file imports, wherever the statement stands; ``package`` is where it lies."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found |= {f"{source}.{alias.name}" for alias in node.names} | {source}
    return found


def modules() -> dict[str, set[str]]:
    """Each module of the runtime, ``cli`` as one, with all that it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        package = ".".join(["edgeroute", *relative.parts[:-1]])
        name = relative.parts[0].removesuffix(".py")
        found.setdefault(name, set()).update(imports(path, package))
    return found


def inner(imported: set[str]) -> set[str]:
    """The modules of edgeroute among imported names."""
    parts = (name.split(".") for name in imported if name.startswith("edgeroute."))
    return {part[1] for part in parts if (ROOT / f"{part[1]}.py").exists() or (ROOT / part[1]).is_dir()}


MODULES = modules()


def test_the_core_imports_inwards_alone() -> None:
    for name, allowed in CORE.items():
        assert inner(MODULES[name]) <= allowed, name


def test_the_package_itself_names_errors_and_what_a_router_and_a_gateway_give() -> None:
    assert inner(MODULES["__init__"]) == {"decision", "errors", "gateway", "ranking", "router"}


def test_nothing_but_the_edge_imports_the_command_line() -> None:
    assert [name for name, found in MODULES.items() if "cli" in inner(found)] == ["__main__", "cli"]


def test_a_router_knows_no_gateway_and_endpoints_no_router() -> None:
    outward = {
        "gateway": {"server", "cli", "__init__"},
        "server": {"cli", "server"},
        "choosing": {"answers", "cli", "gateway", "server", "streams"},
    }
    for name, importers in outward.items():
        assert {other for other, found in MODULES.items() if name in inner(found)} <= importers, name
    inward = {
        "addresses": set(),
        "endpoints": {"addresses"},
        "places": set(),
        "settings": {"endpoints", "manifest"},
        "checks": {"endpoints", "settings"},
        "config": {"checks", "endpoints", "errors", "places", "settings", "strict"},
        "chats": {"errors"},
        "retries": {"endpoints", "errors"},
        "transport": {"addresses", "endpoints", "errors", "retries"},
        "portal": {"errors"},
        "budget": {"errors"},
        "bounds": set(),
    }
    for name, allowed in inward.items():
        assert inner(MODULES[name]) <= allowed, name


def test_files_by_the_million_rows_are_scored_at_the_edge() -> None:
    assert {name for name, found in MODULES.items() if "bulk" in inner(found) - {name}} == {"cli"}
    assert inner(MODULES["bulk"]) - {"bulk"} == {
        "errors",
        "inputs",
        "manifest",
        "providers",
        "router",
        "store",
        "stream",
    }
    inside = {path.stem: imports(path, "edgeroute.bulk") for path in (ROOT / "bulk").glob("*.py")}
    for package, importers in {
        "ray": {"on_ray"},
        "pyarrow": {"__init__", "lines", "output", "parts", "rows", "work"},
    }.items():
        found = {name for name, imported in inside.items() if package in {each.split(".")[0] for each in imported}}
        assert found == importers, package


def test_there_are_no_circles() -> None:
    arrows = {name: inner(found) - {name} for name, found in MODULES.items() if name != "__init__"}
    list(graphlib.TopologicalSorter(arrows).static_order())


def test_outer_packages_have_one_importer() -> None:
    for package, importers in ONLY.items():
        found = {name for name, imported in MODULES.items() if package in {each.split(".")[0] for each in imported}}
        assert found <= importers, package
    assert "onnxruntime" in MODULES["providers"]
    assert "tokenizers" in MODULES["text"]


def test_the_runtime_never_names_the_heavy_packages() -> None:
    for name, imported in MODULES.items():
        assert not {each.split(".")[0] for each in imported} & NEVER, name


def test_the_bundles_package_imports_nothing() -> None:
    for path in (FOLDERS / "models" / "edgeroute_models").glob("*.py"):
        assert imports(path, "edgeroute_models") <= {"__future__", "__future__.annotations"}


def test_export_and_train_do_not_import_each_other() -> None:
    for here, other in (("export", "edgeroute_train"), ("train", "edgeroute_export")):
        for path in (FOLDERS / here).rglob("*.py"):
            assert other not in {name.split(".")[0] for name in imports(path, f"edgeroute_{here}")}, path


def test_no_file_outgrows_one_reading() -> None:
    assert {path.name for path in ROOT.rglob("*.py") if len(path.read_text().splitlines()) > 320} == set()
