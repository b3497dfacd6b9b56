"""Fixtures shared by all tests: the tiny bundle, made once a session and copied, and a router on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import hypothesis
import pytest
from bundles import make_bundle
from wider_bundles import make_embedding_bundle, make_ranking_bundle

from edgeroute.bundle.folder import open_bundle
from edgeroute.router import Router

hypothesis.settings.register_profile(
    "edgeroute",
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("edgeroute")


@pytest.fixture(scope="session")
def base_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, int8 first, then fp32. Read only: use ``bundle`` to change it."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def bundle(base_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may change."""
    return Path(shutil.copytree(base_bundle, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def router(base_bundle: Path) -> Router:
    """A router on the tiny int8 graph, two threads."""
    return Router.load(base_bundle, provider="cpu", threads=2)


@pytest.fixture(scope="session")
def fp32_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with its fp32 graph alone."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny-fp32", name="tiny-fp32", precisions=["fp32"])


@pytest.fixture(scope="session")
def tokenizer_bytes(base_bundle: Path) -> bytes:
    """``tokenizer.json`` of the tiny bundle."""
    (data,) = open_bundle(base_bundle).read("tokenizer.json").values()
    return data


@pytest.fixture(scope="session")
def embedding_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes embeddings and ranks four models. Read only."""
    return make_embedding_bundle(tmp_path_factory.mktemp("bundles") / "embedded")


@pytest.fixture(scope="session")
def ranking_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny text bundle, int8 first, with strengths of four models. Read only."""
    return make_ranking_bundle(tmp_path_factory.mktemp("bundles") / "ranking", ["int8", "fp32"])
