"""Take protobuf messages apart and put them together by hand, to write what the ``onnx`` package would not."""

from __future__ import annotations

from collections.abc import Callable


def varint(value: int) -> bytes:
    """The shortest encoding of a number."""
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def field(number: int, payload: bytes, *, tag: bytes | None = None) -> bytes:
    """A length-delimited field; ``tag`` replaces the plain encoding of its number."""
    return (tag or varint(number << 3 | 2)) + varint(len(payload)) + payload


def rewrite(message: bytes, path: list[int], change: Callable[[int, bytes], bytes]) -> bytes:
    """Replace each field on ``path`` (numbers from the outside in) by what ``change`` makes of number and payload."""
    result, position = b"", 0
    while position < len(message):
        start = position
        tag, position = _read(message, position)
        if tag & 7 == 0:
            _, position = _read(message, position)
        elif tag & 7 == 5:
            position += 4
        elif tag & 7 == 1:
            position += 8
        else:
            length, position = _read(message, position)
            payload = message[position : position + length]
            position += length
            if tag >> 3 == path[0]:
                inner = field(path[0], rewrite(payload, path[1:], change)) if path[1:] else change(path[0], payload)
                result += inner
                continue
        result += message[start:position]
    return result


def _read(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[position] & 0x7F) << shift
        position += 1
        if data[position - 1] < 0x80:
            return value, position
        shift += 7
