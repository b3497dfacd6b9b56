"""The group: help without heavy imports, commands of other packages, missing extras, bugs, and the written page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest

from edgeroute import __version__
from edgeroute.cli import commands
from edgeroute.cli import main as cli
from edgeroute.cli.commands import CORE, EXTRAS

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]

FOREIGN = """
import click

@click.command()
@click.option("--late", is_flag=True)
@click.option("--own", is_flag=True)
def foreign(late, own):
    if late:
        import a_package_that_is_nowhere
    if own:
        import edgeroute.nothing
    click.echo("ran")

group = "no command"
"""


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Register a command of another package under a name; its module is ``foreign``."""
    found: dict[str, EntryPoint] = {}
    monkeypatch.setattr(commands, "_foreign", lambda: found)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    (tmp_path / "foreign.py").write_text(FOREIGN)
    (tmp_path / "heavy.py").write_text("import a_package_that_is_nowhere\n")
    (tmp_path / "broken.py").write_text("from click import nothing_of_that_name\n")

    def register(name: str, value: str) -> None:
        found[name] = EntryPoint(name, value, commands.ENTRY_POINTS)

    return register


def test_help_lists_all_commands_and_imports_none_of_them() -> None:
    script = "import sys; from edgeroute.cli.main import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    for name in CORE | EXTRAS:
        assert f"  {name} " in done.stdout
    *_, loaded = done.stdout.splitlines()
    assert not set(loaded.split()) & {
        "numpy",
        "onnxruntime",
        "torch",
        "requests",
        "edgeroute_train",
        "edgeroute_export",
    }


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"edgeroute {__version__}\n", "")


def test_no_command_is_the_help_and_exit_code_2(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Commands:" in err


@pytest.mark.parametrize("arguments", [["nothing"], ["--nothing"], ["models", "--nothing"], ["verify"]])
def test_what_is_not_understood_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err


def test_a_command_of_another_package_runs(run: Run, entry: Callable[[str, str], None]) -> None:
    entry("other", "foreign:foreign")
    assert run("other") == (0, "ran\n", "")
    assert "A command of another package." in run("--help").out


@pytest.mark.parametrize(("value", "more"), [("heavy:train", []), ("foreign:foreign", ["--late"])])
def test_a_missing_extra_is_said_with_its_name(
    run: Run, entry: Callable[[str, str], None], value: str, more: list[str]
) -> None:
    """Whether the command imports its packages at once or when it runs."""
    entry("train", value)
    needs = "Error: the command train needs a_package_that_is_nowhere, which is not installed: run pip install "
    assert run("train", *more) == (1, "", needs + '-e ".[train]" (in the clone)\n')
    entry("distill", value)
    assert run("distill", *more).err.endswith('run pip install -e ".[train]" (in the clone)\n')
    entry("other", value)
    assert run("other", *more).err.endswith("run pip install a_package_that_is_nowhere\n")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("train", ["a", "--labels", ".", "--output", "new"]),
        ("export", [".", *["--output", "new", "--pair", "a", "b", "--name", "x", "--calibrate", "prompts.txt"]]),
    ],
)
def test_without_torch_the_real_commands_name_their_extra(tmp_path: Path, name: str, options: list[str]) -> None:
    (tmp_path / "a").write_text("labels = []\n")
    (tmp_path / "prompts.txt").write_text("hello\nWhat is the capital of Peru?\n")
    options = [str(tmp_path / each) if each in ("a", "prompts.txt") else each for each in options]
    blocked = ["torch", "transformers", "optimum", "onnx"]
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked})); "
    script = block + "from edgeroute.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, name, "mf", *options]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    needs = rf'Error: the command {name} needs .*: run pip install .*"(edgeroute|\.)\[{name}\]".*'
    assert re.fullmatch(needs, done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("broken:x", "the command other does not load: cannot import name"),
        ("foreign:nothing", "the command other does not load: module 'foreign' has no attribute"),
        ("foreign:group", "the command other does not load: foreign:group is not a click command"),
        ("edgeroute_nowhere:x", "the command other is not in this installation"),
    ],
)
def test_a_command_that_does_not_load_is_one_error(
    run: Run, entry: Callable[[str, str], None], value: str, says: str
) -> None:
    entry("other", value)
    code, out, err = run("other")
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {says}")


def test_a_bug_shows_its_place_but_never_its_message(
    run: Run, entry: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a secret prompt")

    monkeypatch.setattr(click.Command, "invoke", fail)
    code, out, err = run("models")
    assert (code, out) == (1, "")
    assert err.startswith("Error: a bug in edgeroute (ValueError at test_cli_commands.py:")
    assert "secret" not in err
    monkeypatch.setenv("EDGEROUTE_DEBUG", "1")
    with pytest.raises(ValueError, match="secret"):
        run("models")


def test_a_module_of_ours_that_is_missing_is_a_bug(run: Run, entry: Callable[[str, str], None]) -> None:
    entry("other", "foreign:foreign")
    assert run("other", "--own").err.startswith("Error: a bug in edgeroute (ModuleNotFoundError at foreign.py:")


def test_an_abort_is_an_interruption(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise click.Abort

    monkeypatch.setattr(click.Command, "invoke", stop)
    assert run("models") == (cli.INTERRUPTED, "", "Interrupted\n")


def test_the_page_in_docs_is_the_help_of_today() -> None:
    """Write it anew with ``python docs/cli.py > docs/cli.md``."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    command = [sys.executable, ROOT / "docs" / "cli.py"]
    assert page == subprocess.run(command, capture_output=True, check=True).stdout.decode("utf-8")
    for name in (*CORE, *EXTRAS, "train mf", "export bert"):
        assert f"## edgeroute {name}\n" in page


def test_the_page_needs_no_extra() -> None:
    """``edgeroute train mf --help`` works before torch is installed, so the page can be written anywhere."""
    hide = "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'onnx', 'optimum'])"
    code = f"{hide}; import cli; cli.document()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", check=True)


def test_help_and_exit_codes_agree(run: Run) -> None:
    from edgeroute.cli.output import EXIT_CODES

    help_text = run("--help").out
    assert all(str(code) in help_text for code in EXIT_CODES)
