"""Promise 25: a digest that is given pins, and an empty one is an error; a name is never a folder that lies about."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import reseal

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.store import find_shipped
from edgeroute.cli.main import main
from edgeroute.errors import BundleNotFoundError, ConfigError, IntegrityError
from edgeroute.gateway.gateway import Gateway
from edgeroute.router import Router
from edgeroute.triton.repository import export_repository

ENDPOINT = '[endpoints.{0}]\nurl = "https://{0}.example/v1"\nmodel = "{0}"\n'
TABLES = 'strong = ["big"]\nweak = ["small"]\n' + ENDPOINT.format("big") + ENDPOINT.format("small")
NO_DIGESTS = ["", " ", "sha256:", "0" * 64, "sha256:" + "0" * 63, "SHA256:" + "0" * 64]


@pytest.mark.parametrize("digest", NO_DIGESTS)
def test_a_digest_that_is_none_pins_nothing_silently(base_bundle: Path, tmp_path: Path, digest: str) -> None:
    calls: list[Any] = [
        lambda: Router.load(base_bundle, digest=digest),
        lambda: Router.load(digest=digest),
        lambda: open_bundle(base_bundle, digest=digest),
        lambda: export_repository(base_bundle, tmp_path / "m", digest=digest),
    ]
    for call in calls:
        with pytest.raises(IntegrityError, match="expected a digest of sha256: and 64 hex digits, found"):
            call()


@pytest.mark.parametrize("digest", NO_DIGESTS)
def test_nor_on_a_command_line(
    base_bundle: Path, tmp_path: Path, digest: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    for command in (["pull", base_bundle], ["export-triton", base_bundle, tmp_path / "models"]):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, command), "--digest", digest])
        assert ended.value.code == 1
        assert "expected a digest of sha256: and 64 hex digits, found" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", NO_DIGESTS)
def test_nor_in_the_toml(base_bundle: Path, tmp_path: Path, digest: str) -> None:
    path = tmp_path / "edgeroute.toml"
    path.write_text(f'bundle = "{base_bundle}"\ndigest = "{digest}"\n{TABLES}')
    with pytest.raises((IntegrityError, ConfigError), match="digest"):
        Gateway.load(path, environment={})


def test_a_name_is_never_a_folder_that_lies_about(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reseal(bundle, lambda manifest: manifest.update(version="of a stranger"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("mine", "nano"):
        shutil.copytree(bundle, name)
    with pytest.raises(BundleNotFoundError, match=r"no bundle named 'mine'"):
        Router.load("mine")
    assert Router.load("./mine").manifest.version == "of a stranger"
    shipped = find_shipped("nano")
    assert shipped is not None
    assert Router.load("nano").manifest.digest == shipped.digest
    path = Path("edgeroute.toml")
    for name, version in (("nano", None), ("./nano", "of a stranger")):
        path.write_text(f'bundle = "{name}"\n{TABLES}')
        with Gateway.load(path, environment={}) as gateway:
            found = gateway.router.manifest
            assert found.digest == shipped.digest if version is None else found.version == version
