"""Over TLS a server is only believed with a certificate that the caller's machine trusts, for the host asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_repository import ModelRepository
from serving_v2 import serve_grpc, serve_http

from edgeroute.triton.repository import export_repository

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a certificate of its own for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder / "key.pem", folder / "certificate.pem"


def score(bundle: Path, url: str, trusted: Path | None) -> tuple[str, str]:
    """Which backend answered the command, and what it said; roots are read once a process."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    if trusted is not None:
        env |= {"SSL_CERT_FILE": str(trusted), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(trusted)}
    command = [sys.executable, "-m", "edgeroute", "score", "hello", "--json", "--model", str(bundle), "--backend", url]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    backend: str = json.loads(ran.stdout)["backend"]
    return backend, ran.stderr


@pytest.mark.parametrize(("scheme", "serve"), [("triton+grpcs", serve_grpc), ("triton+https", serve_http)])
def test_a_certificate_must_be_trusted(
    base_bundle: Path, tmp_path: Path, certificate: tuple[Path, Path], scheme: str, serve
) -> None:
    export_repository(base_bundle, tmp_path / "m")
    with serve(ModelRepository(tmp_path / "m"), tls=certificate) as port:
        url = f"{scheme}://localhost:{port}/tiny-int8"
        assert score(base_bundle, url, certificate[1])[0] == "triton"
        for where, trusted in ((url, None), (url.replace("localhost", "127.0.0.1"), certificate[1])):
            backend, said = score(base_bundle, where, trusted)
            assert backend == "local"
            assert "does not answer" in said
