"""What ``import edgeroute`` gives and what it costs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgeroute
from edgeroute import errors

ROOT = Path(__file__).parents[1]
LOADED = """
import json, sys
before = set(sys.modules)
import edgeroute
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    for name in edgeroute.__all__:
        assert getattr(edgeroute, name).__doc__ or name == "__version__"
        assert name in pages + (errors.__doc__ or "") or name == "__version__", f"{name} is public and on no page"
    assert set(dir(edgeroute)) == set(edgeroute.__all__)


def test_what_the_pages_import_is_there() -> None:
    """Every import of ours in the README's and the pages' programs works, public or not."""
    paths = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py"))
    wanted = {
        line
        for path in paths
        for line in re.findall(r"^\s*(from edgeroute\S* import .+?)(?:  #.*)?$", path.read_text(encoding="utf-8"), re.M)
    }
    assert len(wanted) >= 4
    for line in wanted:
        exec(line, {})


def test_router_and_decision_are_loaded_when_asked_for() -> None:
    from edgeroute.router import Decision, Router

    assert edgeroute.Router is Router
    assert edgeroute.Decision is Decision


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgeroute' has no attribute 'Gateways'"):
        _ = edgeroute.Gateways


def test_importing_loads_the_standard_library_alone() -> None:
    result = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == ["edgeroute"]


def test_the_command_that_installs_an_extra_is_true_in_a_clone_and_without_one(tmp_path: Path) -> None:
    (tmp_path / "edgeroute").mkdir()
    for path in Path(errors.__file__).parent.glob("*.py"):
        shutil.copy(path, tmp_path / "edgeroute")
    code = "from edgeroute.errors import install_command; print(install_command('gateway'))"

    def said() -> str:
        return subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True, env={}).strip()

    assert said() == 'pip install "edgeroute[gateway]"'
    record = tmp_path / "edgeroute-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: edgeroute\nVersion: 1.0\n")
    (record / "direct_url.json").write_text('{"dir_info": {}, "url": "file:///home/me/edgeroute"}')
    assert said() == 'pip install ".[gateway]" (in the clone)'  # after pip install .
    (tmp_path / "pyproject.toml").touch()
    assert said() == 'pip install -e ".[gateway]" (in the clone)'


def test_every_error_is_in_the_tree_that_its_module_draws() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    exceptions = [each for each in kinds if not issubclass(each, Warning)]
    assert {each.__name__ for each in kinds} <= set(edgeroute.__all__)
    lines = {line.split("── ")[-1].split()[0]: line for line in (errors.__doc__ or "").splitlines() if "── " in line}
    for each in exceptions:
        if each is errors.EdgeRouteError:
            continue
        parent = each.__bases__[0]
        assert parent in (errors.EdgeRouteError, errors.BundleError, errors.UpstreamError)
        assert lines[each.__name__].startswith(("    │   ", "        ")) == (parent is not errors.EdgeRouteError)
    assert len(lines) == len(exceptions) - 1
