"""KServe's v2 protocol in small, over real gRPC and HTTP, for a model repository; able to misbehave.

It is no Triton: it shows that client and repository keep to the protocol and to the published schemas.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from model_repository import ModelRepository
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as service

NAMES = {np.dtype("<i8"): "INT64", np.dtype("<f4"): "FP32"}
BY_NAME = {name: dtype for dtype, name in NAMES.items()}
HEADER = "Inference-Header-Content-Length"


def unknown(name: str) -> str:
    """What Triton says."""
    return f"Request for unknown model: '{name}' is not found"


class Grpc(service.GRPCInferenceServiceServicer):
    """The two calls that the client makes."""

    def __init__(self, repository: ModelRepository) -> None:
        self.repository = repository

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            return pb.ModelConfigResponse(config=self.repository.config(request.name))
        except KeyError:
            context.abort(grpc.StatusCode.NOT_FOUND, unknown(request.name))

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.repository.fault == "error":
            self.repository.calls += 1
            context.abort(grpc.StatusCode.INTERNAL, "onnx runtime error 1: out of luck\nand more")
        if self.repository.fault == "drop":
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if self.repository.fault == "trickle":
            threading.Event().wait(0.5)
        feed = {
            each.name: np.frombuffer(raw, BY_NAME[each.datatype]).reshape(each.shape)
            for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        try:
            found = self.repository.infer(request.model_name, feed)
        except KeyError:
            context.abort(grpc.StatusCode.NOT_FOUND, unknown(request.model_name))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
        for each in request.outputs:
            array = found[each.name]
            answer.outputs.add(name=each.name, datatype=NAMES[array.dtype], shape=array.shape)
            raw = array.tobytes()
            answer.raw_output_contents.append(raw[:-1] if self.repository.fault == "garbage" else raw)
        return answer


class Http(BaseHTTPRequestHandler):
    """``GET …/config`` and ``POST …/infer`` with tensors as binary data behind the JSON."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    repository: ModelRepository

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        name = self.path.split("/")[3]
        try:
            config = self.repository.config(name)
        except KeyError:
            return self._send(404, json.dumps({"error": unknown(name)}).encode())
        return self._send(200, json_format.MessageToJson(config, preserving_proto_field_name=True).encode())

    def do_POST(self) -> None:
        name = self.path.split("/")[3]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        cut = int(self.headers[HEADER])
        request, binary = json.loads(body[:cut]), body[cut:]
        feed = {}
        for each in request["inputs"]:
            size = each["parameters"]["binary_data_size"]
            feed[each["name"]] = np.frombuffer(binary[:size], BY_NAME[each["datatype"]]).reshape(each["shape"])
            binary = binary[size:]
        if self.repository.fault == "error":
            self.repository.calls += 1
            return self._send(500, json.dumps({"error": "out of luck"}).encode())
        try:
            found = self.repository.infer(name, feed)
        except (KeyError, ValueError) as error:
            return self._send(400, json.dumps({"error": str(error)}).encode())
        outputs, data = [], b""
        for wanted in request["outputs"]:
            array = found[wanted["name"]]
            outputs.append(
                {
                    "name": wanted["name"],
                    "datatype": NAMES[array.dtype],
                    "shape": array.shape,
                    "parameters": {"binary_data_size": array.nbytes},
                }
            )
            data += array.tobytes()
        head = json.dumps({"model_name": name, "model_version": "1", "outputs": outputs}).encode()
        if self.repository.fault == "garbage":
            head = head[:-1] + b"?"
        return self._send(200, head + data, {HEADER: str(len(head))})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        with contextlib.suppress(ConnectionError):  # the client may be gone
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.repository.fault == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
            elif self.repository.fault == "trickle":
                for i in range(len(body)):
                    self.wfile.write(body[i : i + 1])
                    threading.Event().wait(0.05)
            else:
                self.wfile.write(body)


@contextlib.contextmanager
def serve_grpc(repository: ModelRepository, port: int = 0, tls: tuple[Path, Path] | None = None) -> Iterator[int]:
    """Serve, and give the port; ``tls`` are key and certificate. Gone at the end, open calls included."""
    server = grpc.server(ThreadPoolExecutor(24))
    service.add_GRPCInferenceServiceServicer_to_server(Grpc(repository), server)
    if tls is None:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        pair = (tls[0].read_bytes(), tls[1].read_bytes())
        bound = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield bound
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def serve_http(repository: ModelRepository, port: int = 0, tls: tuple[Path, Path] | None = None) -> Iterator[int]:
    """Serve, and give the port; open connections end with the server."""
    handler = type("Handler", (Http,), {"repository": repository})
    open_sockets: set[socket.socket] = set()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def process_request(self, request: Any, client_address: Any) -> None:
            open_sockets.add(request)
            super().process_request(request, client_address)

    server = Server(("127.0.0.1", port), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls[1], tls[0])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for each in open_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


SERVERS = {"triton": serve_grpc, "triton+http": serve_http}
