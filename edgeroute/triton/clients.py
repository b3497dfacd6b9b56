"""Ask a server for a model's configuration and for one output of a run: the only module that imports tritonclient.

Both clients may be shared between threads and keep to a deadline in full, whatever the server does: gRPC has deadlines
of its own; over HTTP a call runs on the event loop of one thread, where a timeout covers connecting and every byte.
(tritonclient's other HTTP client, on gevent, belongs to one thread and times each read apart.)
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import MissingExtraError, install_command, is_interrupt
from .address import Address

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Feed = Mapping[str, NDArray[Any]]

MAX_ANSWER_BYTES = 1 << 20
"""A configuration takes a few kilobytes, the strengths of 1,024 models four."""
MAX_RECONNECT_MS = 1000
"""gRPC itself would wait up to two minutes before it tries a server that was gone."""
_TYPES = {"int64": "INT64", "float32": "FP32"}


class CallError(Exception):
    """Why a call gave nothing. ``refused``: the server answered, and said that the request or the name is wrong."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Client(Protocol):
    """What both protocols give; each call raises ``CallError`` after ``timeout_s`` at the latest."""

    def parameters(self, timeout_s: float) -> dict[str, str]:
        """The string parameters of the model's configuration."""
        ...

    def infer(self, feed: Feed, output: str, timeout_s: float) -> NDArray[np.float32]:
        """One output of a run on ``feed``, as the server shapes it."""
        ...


def open_client(address: Address) -> Client:
    """A client of the address's protocol; connects with the first call. Raises ``MissingExtraError``."""
    try:
        return GrpcClient(address) if address.protocol == "grpc" else HttpClient(address)
    except ImportError as error:
        raise MissingExtraError(
            f"a triton backend needs tritonclient ({error}): run {install_command('triton')}"
        ) from None


class GrpcClient:
    """tritonclient's gRPC client."""

    def __init__(self, address: Address) -> None:
        import tritonclient.grpc as library
        from tritonclient.utils import InferenceServerException

        self._library, self._error, self._model = library, InferenceServerException, address.model
        options = {
            "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
            "grpc.initial_reconnect_backoff_ms": 100,
            "grpc.min_reconnect_backoff_ms": 100,
            "grpc.max_reconnect_backoff_ms": MAX_RECONNECT_MS,
            "grpc.enable_http_proxy": 0,  # prompts go where the caller said
        }
        self._client = library.InferenceServerClient(address.host, ssl=address.tls, channel_args=list(options.items()))

    def parameters(self, timeout_s: float) -> dict[str, str]:
        """The string parameters of the model's configuration."""
        answer = self._call(lambda: self._client.get_model_config(self._model, client_timeout=timeout_s))
        return {key: value.string_value for key, value in answer.config.parameters.items()}

    def infer(self, feed: Feed, output: str, timeout_s: float) -> NDArray[np.float32]:
        """One output of a run on ``feed``."""
        wanted = [self._library.InferRequestedOutput(output)]
        inputs = _inputs(self._library, feed)
        answer = self._call(lambda: self._client.infer(self._model, inputs, outputs=wanted, client_timeout=timeout_s))
        return _output(answer, output)

    def _call(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except self._error as error:
            status = str(error.status()).rpartition(".")[2]
            refused = status in ("NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED")
            raise CallError(f"{status}: {brief(error.message())}", refused=refused) from None
        except Exception as error:  # what the library makes of an answer that it cannot read
            if is_interrupt(error):
                raise
            raise CallError(f"an answer that cannot be read ({type(error).__name__})") from None


class HttpClient:
    """tritonclient's asyncio client, on an event loop of its own; the loop ends with this object."""

    def __init__(self, address: Address) -> None:
        import aiohttp
        import tritonclient.http as library
        from tritonclient.http.aio import InferenceServerClient
        from tritonclient.utils import InferenceServerException

        self._library, self._model = library, address.model
        self._error, self._gone = InferenceServerException, (aiohttp.ClientError, OSError, asyncio.TimeoutError)
        self._loop = asyncio.new_event_loop()

        # Said outright: verifying must not hang on what aiohttp makes of the None that the library passes on.
        trust = ssl.create_default_context() if address.tls else None

        async def connected() -> Any:
            return InferenceServerClient(address.host, ssl=address.tls, ssl_context=trust)

        self._client = self._loop.run_until_complete(connected())
        thread = threading.Thread(target=_serve, args=(self._loop, self._client), name="edgeroute-triton", daemon=True)
        thread.start()
        weakref.finalize(self, _stop, self._loop, thread)

    def parameters(self, timeout_s: float) -> dict[str, str]:
        """The string parameters of the model's configuration."""
        config = self._call(self._client.get_model_config(self._model), timeout_s)
        found = config.get("parameters") if isinstance(config, dict) else None
        if not isinstance(found, dict):
            return {}
        return {key: str(value.get("string_value") or "") for key, value in found.items() if isinstance(value, dict)}

    def infer(self, feed: Feed, output: str, timeout_s: float) -> NDArray[np.float32]:
        """One output of a run on ``feed``."""
        wanted = [self._library.InferRequestedOutput(output)]
        inputs = _inputs(self._library, feed)
        return _output(self._call(self._client.infer(self._model, inputs, outputs=wanted), timeout_s), output)

    def _call(self, work: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop)
        try:
            return future.result()
        except self._error as error:
            refused = str(error.status()).startswith("4")
            raise CallError(f"status {error.status()}: {brief(error.message())}", refused=refused) from None
        except self._gone as error:
            raise CallError(brief(str(error)) or type(error).__name__) from None
        except Exception as error:  # what the library makes of an answer that it cannot read
            theirs = future.done() and not future.cancelled() and future.exception() is error
            if not theirs:  # a signal's time limit, raised in the thread that waits
                raise
            raise CallError(f"an answer that cannot be read ({type(error).__name__})") from None
        finally:
            future.cancel()


def brief(message: str | None) -> str:
    """One line of what a server says."""
    lines = (message or "").strip().splitlines()
    return lines[0][:200] if lines else ""


def _inputs(library: Any, feed: Feed) -> list[Any]:
    inputs = []
    for name, array in feed.items():
        tensor = library.InferInput(name, list(array.shape), _TYPES[array.dtype.name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def _output(answer: Any, output: str) -> NDArray[np.float32]:
    try:
        found: NDArray[np.float32] | None = answer.as_numpy(output)
    except Exception as error:  # what the library makes of bytes that do not fit their shape
        raise CallError(f"an answer that cannot be read ({type(error).__name__})") from None
    if found is None:
        raise CallError(f"an answer without {output}")
    return found


def _serve(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    loop.run_forever()
    loop.run_until_complete(client.close())
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if threading.current_thread() is not thread:  # where the collector runs on it
        thread.join(1)
