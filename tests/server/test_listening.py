"""How ``edgeroute serve`` listens: an answer never waits for an acknowledgement."""

from __future__ import annotations

import asyncio
import socket

import pytest

from edgeroute.server.limits import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_send_at_once(host: str) -> None:
    found: list[int] = []

    async def meet(listening: socket.socket) -> None:
        met = asyncio.Event()

        def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            met.set()

        async with await asyncio.start_server(accepted, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            await met.wait()
            writer.close()
            await writer.wait_closed()

    try:
        listening = listen(host, 0)
    except OSError:
        assert host == "::1", "a machine without IPv6"
        return
    asyncio.run(meet(listening))
    assert found[0] != 0
