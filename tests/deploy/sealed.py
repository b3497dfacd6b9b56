"""A server as the image runs it: another user without any rights, on a file system of which one folder can be written.

Needs util-linux (``unshare``, ``setpriv``). As root a mount namespace is made and the user changed; without root the
user stays who it is, in a namespace of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

UID = 10001
# Every mount but the state becomes read-only, in this namespace alone; then the program takes the shell's place.
_SEAL = """
set -eu
mount --bind "$1" "$1"
awk '$2 !~ "^/(proc|sys|dev)" { print $2 }' /proc/mounts | while read -r point; do
    [ "$point" = "$1" ] || mount -o remount,bind,ro "$point"
done
cd "$1"
shift
exec "$@"
"""
# Reading is all that is kept of root's rights: the interpreter may lie in root's home.
_DROP = [
    *("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--no-new-privs"),
    *("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"),
    *("--bounding-set", "-all,+dac_read_search"),
]


def sealed(state: Path, command: list[str]) -> list[str]:
    """``command`` in such a place, its working folder ``state``."""
    root = os.geteuid() == 0
    if root:
        os.chown(state, UID, UID)
    apart = ["unshare", "--mount"] if root else ["unshare", "--mount", "--map-root-user"]
    return [*apart, "sh", "-c", _SEAL, "seal", str(state), *(_DROP if root else []), *command]


@dataclass
class Sealed:
    """The server's address, its process id, and all that it said."""

    url: str
    pid: int
    said: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(installed: Path, state: Path, toml: Path, environment: Mapping[str, str]) -> Iterator[Sealed]:
    """``edgeroute serve`` of an installation, sealed; on leaving it is told to end, and must."""
    command = [str(installed / "bin/edgeroute"), "serve", "--host", "0.0.0.0", "--port", "0", "--config", str(toml)]
    place = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "EDGEROUTE_CACHE": str(state / "cache")}
    with subprocess.Popen(sealed(state, command), stderr=subprocess.PIPE, env=place | environment) as process:
        assert process.stderr
        lines = process.stderr
        first = lines.readline().decode()
        server = Sealed(first.rpartition("0.0.0.0:")[2].partition("/")[0], process.pid, [first])
        server.url = f"http://127.0.0.1:{server.url}"
        rest = threading.Thread(target=lambda: server.said.extend(line.decode() for line in lines))
        rest.start()
        try:
            assert first.startswith("serving"), first
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(20)
            rest.join()
            assert code in (0, -signal.SIGTERM), (code, server.said)  # uvicorn raises the signal again once it is done
