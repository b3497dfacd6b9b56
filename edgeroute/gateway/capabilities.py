"""What a call needs, and which endpoints can take it: the size of the model's window, images, tools and the like.

The size is an upper estimate, so that a call is seldom sent where it turns out not to fit: bytes where even so many
tokens fit, else by kinds of characters. No I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .endpoint import Endpoint
from .openai import requested_tokens

TOKENS_PER_MESSAGE = 8
TOKENS_PER_IMAGE = 1600
"""More than OpenAI (1,445) and Anthropic (about 1,600) count for one image of full size."""
BYTES_PER_MEDIA_TOKEN = 200
"""Of a sound or a file in base64: 16 kHz audio has about 3,000 bytes of base64 for one token, a PDF about 400."""
_LETTER, _BLANK, _SIGN, _OTHER = range(4)
_KINDS = np.full(256, _SIGN, np.uint8)
_KINDS[128:] = _OTHER
_KINDS[[*range(65, 91), *range(97, 123)]] = _LETTER
_KINDS[[32]] = _BLANK
_BLOCK = 1 << 20
_LEVELS = 4


@dataclass(frozen=True, slots=True)
class Need:
    """What a call needs. ``tokens``: an upper estimate of what it sends; ``output``: what it asks for, 0 if unsaid.

    ``generates``: whether there is an answer to write, as there is none to embeddings.
    """

    tokens: int = 0
    output: int = 0
    generates: bool = True
    images: bool = False
    audio: bool = False
    tools: bool = False
    json_schema: bool = False


def need_of(fields: Mapping[str, Any], *, window: int | None) -> Need:
    """What a call with these fields of a body needs.

    ``window``: the smallest window of tokens that an endpoint declares, ``None`` where none does: tokens are counted
    in detail only where they could be too many.
    """
    parts = list(_parts(fields))
    asked = fields.get("response_format")
    modalities = fields.get("modalities")
    kinds = [str(part.get("type")) for part in parts]
    messages = [each for each in _list(fields.get("messages")) if isinstance(each, Mapping)]
    calls = any(each.get("tool_calls") or each.get("role") in ("tool", "function") for each in messages)
    return Need(
        tokens=0 if window is None else _most_tokens(fields, parts, messages, window),
        output=requested_tokens(fields),
        generates="messages" in fields or "prompt" in fields,
        images=any("image" in kind for kind in kinds),
        audio=any("audio" in kind for kind in kinds) or (isinstance(modalities, list) and "audio" in modalities),
        tools=bool(fields.get("tools") or fields.get("functions") or calls)
        or any(kind in ("tool_use", "tool_result") for kind in kinds),
        json_schema=isinstance(asked, Mapping) and asked.get("type") == "json_schema",
    )


def why_unfit(endpoint: Endpoint, need: Need, output_tokens: int) -> str | None:
    """Why a call may not be sent to an endpoint, or ``None``; ``output_tokens`` is expected where it asks for none."""
    for what in ("images", "audio", "tools", "json_schema"):
        if getattr(need, what) and not getattr(endpoint, what):
            return f"takes no {what.replace('_', ' ')} ({what} = false)"
    most, window = endpoint.max_output_tokens, endpoint.context_tokens
    if most is not None and need.output > most:
        return f"writes at most {most} tokens, and {need.output} are asked for"
    output = (need.output or min(output_tokens, most or output_tokens)) if need.generates else 0
    if window is not None and need.tokens + output > window:
        return f"holds {window} tokens, and the call may take {need.tokens} and {output} for the answer"
    return None


def most_tokens(text: str) -> int:
    """An upper estimate of the tokens of a text: one for 4 letters of a word, for a digit, a sign and a line end.

    Of a word of more than 16 letters two letters are a token, of other scripts 0.6 tokens a byte, and of several blanks
    in a row all but one count as one token.
    """
    data = text.encode("utf-8", "surrogatepass")
    return sum(_most_of(np.frombuffer(data[i : i + _BLOCK], np.uint8)) for i in range(0, len(data), _BLOCK))


def _most_of(data: np.ndarray) -> int:
    kinds = _KINDS[data]
    letters = np.concatenate([[False], kinds == _LETTER, [False]])
    edges = np.flatnonzero(letters[1:] != letters[:-1])
    lengths = edges[1::2] - edges[::2]
    words = int(np.where(lengths <= 16, (lengths + 3) // 4, (lengths + 1) // 2).sum())
    blank = kinds == _BLANK
    doubled = blank[1:] & blank[:-1]
    runs = int(np.count_nonzero(doubled & ~np.concatenate([[False], doubled])[:-1]))
    others = -(-3 * int(np.count_nonzero(kinds == _OTHER)) // 5)
    return words + runs + int(np.count_nonzero(kinds == _SIGN)) + others


def _most_tokens(
    fields: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], messages: Sequence[Any], window: int
) -> int:
    texts = list(_texts(fields))
    media = sum(map(_media_tokens, parts)) + TOKENS_PER_MESSAGE * len(messages)
    ids = sum(1 for each in _list(fields.get("prompt")) + _list(fields.get("input")) if type(each) is int)
    fixed = media + ids
    if (whole := fixed + 4 * sum(map(len, texts))) <= window // 2:  # no character is more than four tokens
        return whole
    return fixed + sum(map(most_tokens, texts))


def _media_tokens(part: Mapping[str, Any]) -> int:
    kind = str(part.get("type"))
    if "image" in kind:
        return TOKENS_PER_IMAGE
    if "audio" not in kind and "file" not in kind and "document" not in kind:
        return 0
    inner = [part, *(each for each in part.values() if isinstance(each, Mapping))]
    data = [each[key] for each in inner for key in ("data", "file_data") if isinstance(each.get(key), str)]
    return TOKENS_PER_IMAGE + sum(map(len, data)) // BYTES_PER_MEDIA_TOKEN


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    """Every text that the model reads."""
    for key in ("messages", "prompt", "input", "suffix"):
        yield from _words(fields.get(key), _LEVELS)
    for key in ("tools", "functions", "response_format", "prediction"):
        if fields.get(key):
            yield _json(fields[key])


def _words(value: Any, levels: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple) and levels:
        for each in value:
            yield from _words(each, levels - 1)
    elif isinstance(value, Mapping):
        content = value.get("content")
        if "role" in value:
            yield from _words(content, levels)
            yield from (_json(each) for key, each in value.items() if key not in ("role", "content") and each)
        elif isinstance(value.get("text"), str):
            yield value["text"]
        elif content is not None:
            yield from _words(content, levels - 1) if levels else ()
        elif "input" in value or "function" in value:
            yield _json(value)


def _parts(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of all messages, those within the results of tools too."""
    for message in [*_list(fields.get("messages")), *_list(fields.get("input"))]:
        content = message.get("content") if isinstance(message, Mapping) else None
        yield from _inner(content, _LEVELS)


def _inner(content: Any, levels: int) -> Iterator[Mapping[str, Any]]:
    for part in _list(content):
        if isinstance(part, Mapping):
            yield part
            if levels:
                yield from _inner(part.get("content"), levels - 1)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _json(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return ""
