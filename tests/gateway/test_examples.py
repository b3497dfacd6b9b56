"""The examples: each TOML is read, the service in FastAPI is run."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from upstream import Upstream, status

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.store import locate
from edgeroute.errors import ConfigError, ForkError, MissingExtraError
from edgeroute.gateway.config import read_settings
from edgeroute.gateway.gateway import Gateway

EXAMPLES = Path(__file__).parents[2] / "examples"
KEYS = ("OPENAI_API_KEY", "OPENAI_ORGANIZATION", "VLLM_API_KEY", "AZURE_OPENAI_API_KEY")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_read(path: Path) -> None:
    settings, endpoints = read_settings(path, dict.fromkeys(KEYS, "sk-x"))
    assert settings.targets
    assert set(endpoints) == set(settings.endpoints)
    assert all(each.url_of("chat/completions").count("/chat/completions") == 1 for each in endpoints.values())
    with pytest.raises(ConfigError, match=r"is not set"):
        read_settings(path, {})
    assert read_settings(path, {}, keys=False)[0] == settings


def test_there_is_one_for_each_kind_of_server() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == {
        *("openai", "ollama", "vllm", "llamacpp", "lmstudio", "azure")
    }


def test_the_query_of_an_azure_url_stays_behind_the_path() -> None:
    endpoints = read_settings(EXAMPLES / "azure.toml", dict.fromkeys(KEYS, "sk-x"))[1]
    assert endpoints["azure"].url_of("chat/completions") == (
        "https://YOUR-RESOURCE.openai.azure.com/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    )
    assert {name: key.reveal() for name, key in endpoints["azure"].headers.items()} == {"api-key": "sk-x"}


def test_the_ranked_models_are_known_to_the_bundle() -> None:
    settings = read_settings(EXAMPLES / "lmstudio.toml", {}, keys=False)[0]
    assert set(settings.targets) <= set(open_bundle(locate(settings.bundle).path).manifest.models)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_needs_the_bundles_of_the_wheel_alone_and_speaks_in_shares(path: Path) -> None:
    """A raw threshold means another share for every bundle, and "0.35" once sent every prompt to strong."""
    settings = read_settings(path, {}, keys=False)[0]
    pyproject = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())
    carried = pyproject["tool"]["setuptools"]["package-data"]["edgeroute_models"]
    assert settings.bundle is None or f"{settings.bundle}/*" in carried
    assert "threshold" not in path.read_text()


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_service_in_fastapi_names_the_file_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEROUTE_TOML", raising=False)
    monkeypatch.chdir(tmp_path)
    module = loaded(EXAMPLES / "fastapi_service.py")

    async def started() -> None:
        async with module.lifespan(module.app):
            pass

    with pytest.raises(ConfigError, match=r"edgeroute\.toml cannot be read: No such file"):
        asyncio.run(started())


def test_the_service_in_fastapi_answers(
    toml: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, strong: Upstream, weak: Upstream
) -> None:
    path = EXAMPLES / "fastapi_service.py"
    assert sum(bool(line.strip()) for line in path.read_text().split('"""')[2].splitlines()) <= 30
    monkeypatch.setenv("EDGEROUTE_TOML", str(toml()))
    monkeypatch.setenv("BIG_KEY", "sk-x")
    module = loaded(path)
    server = uvicorn.Server(uvicorn.Config(module.app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/ask"
        code, answer = post(url, {"text": "What is the capital of Peru?"})
        assert (code, answer["text"]) == (200, "Lima is the capital.")
        assert answer["endpoint"] in ("big", "small")
        for wrong in ({}, {"text": 7}, {"question": "What?"}, {"text": ""}):
            assert post(url, wrong)[0] == 422
        strong.always = weak.always = status(503)
        code, answer = post(url, {"text": "What is the capital of Peru?"})
        assert (code, "no endpoint answered" in answer["detail"]) == (503, True)
    finally:
        server.should_exit = True
        thread.join()


def test_a_gateway_does_not_survive_a_fork(load: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = load()
    monkeypatch.setattr(gateway._portal, "_pid", -1)
    with pytest.raises(ForkError, match="load it in the process that uses it"):
        gateway.complete("hello")
    monkeypatch.undo()


def test_without_aiohttp_the_extra_is_named(toml: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "aiohttp", None)
    with pytest.raises(MissingExtraError, match=r'run pip install -e "\.\[gateway\]" \(in the clone\)'):
        Gateway.load(toml(), environment={"BIG_KEY": "sk-x"})
