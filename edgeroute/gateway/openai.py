"""OpenAI's wire format: chats, what a body asks for, how answers and event streams are read, and the tokens of each.

What callers send and endpoints answer is looked at and never changed. No I/O.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from ..errors import BrokenAnswerError, PromptError
from .retries import Unfit

Messages = str | Sequence[Mapping[str, Any]]
"""A prompt, or a chat as OpenAI's ``messages``."""
BYTES_PER_TOKEN = 4
"""An estimate for English text; other scripts and code take more tokens."""
TOKENS_PER_ATTACHMENT = 765
"""Of an image, a sound or a file in a chat: what OpenAI counts for an image of 1024 x 1024 (85 + 4 tiles of 170)."""


def check_messages(messages: Messages) -> Sequence[Mapping[str, Any]]:
    """A chat, made of a plain prompt where one is given; raises ``PromptError`` for what is neither."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise PromptError(f"expected a prompt or a list of messages, found {_kind(messages)}")
    for i, message in enumerate(messages):
        if type(message) is dict and type(message.get("role")) is str:  # the question to Mapping is a slow one
            continue
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f'message {i}: expected an object with a "role"')
    return cast("Sequence[Mapping[str, Any]]", messages)


def _kind(messages: object) -> str:
    return "an empty list" if isinstance(messages, Sequence) else f"a {type(messages).__name__}"


def beginning(chat: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """A conversation up to its first question: what decides for all of it, in every process and after a restart."""
    first = next((i for i, message in enumerate(chat) if message["role"] == "user"), len(chat) - 1)
    return chat[: first + 1]


def _parts(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else ()


def _is_image(part: object) -> bool:
    return isinstance(part, Mapping) and "image" in str(part.get("type"))


def _is_text(part: object) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


def texts_of(message: Mapping[str, Any]) -> Sequence[str]:
    """The texts of a message: its content, or the text parts of that."""
    content = message.get("content")
    found = [content, *(part.get("text") for part in _parts(message) if isinstance(part, Mapping))]
    return [text for text in found if isinstance(text, str)]


def has_image(message: Mapping[str, Any]) -> bool:
    """Whether a part of a message is an image."""
    return any(_is_image(part) for part in _parts(message))


def tokens_of(words: Any, _levels: int = 4) -> int:
    """An estimate of the tokens of a prompt, a chat, or what else a body may hold in their place: token ids, a list.

    Texts count by their bytes, images and other attachments by the piece, however many bytes they have, and token ids
    one each. What is none of these counts nothing.
    """
    if isinstance(words, str):
        return estimate_tokens(words)
    if isinstance(words, Mapping):
        return _tokens_of_message(words)
    if not isinstance(words, list | tuple) or not _levels:
        return 0
    return sum(1 if type(each) is int else tokens_of(each, _levels - 1) for each in words)


def _tokens_of_message(message: Mapping[str, Any]) -> int:
    parts = [part for part in _parts(message) if part]
    texts = [*texts_of(message), *(part for part in parts if isinstance(part, str))]
    attached = sum(1 for part in parts if isinstance(part, Mapping) and (_is_image(part) or not _is_text(part)))
    others = [value for key, value in message.items() if key not in ("role", "content") and value]
    return sum(map(estimate_tokens, texts)) + attached * TOKENS_PER_ATTACHMENT + sum(map(tokens_of_json, others))


def tokens_of_json(value: Any) -> int:
    """An estimate for what an endpoint reads or writes as JSON, such as tools and the calls of them."""
    if isinstance(value, str):
        return estimate_tokens(value)
    try:
        return estimate_tokens(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return 0


def estimate_tokens(text: str) -> int:
    """Tokens of a text by its bytes: an estimate."""
    return tokens_of_bytes(len(text.encode("utf-8", "surrogatepass")))


def tokens_of_bytes(count: int) -> int:
    """Tokens of so many bytes of UTF-8: an estimate."""
    return -(-count // BYTES_PER_TOKEN)


MAX_EVENT_BYTES = 16 << 20
"""The longest line of an event stream: an image in base64 fits."""
MAX_TOKENS = 10**8
"""A larger count is not believed: money is counted by it."""
MAX_ANSWER_TOKENS, MAX_ANSWERS = 1 << 17, 128
"""No model writes more than this: who asks for more, and leaves, must not use up everybody's budget for the day."""
MAX_PARSED_BYTES = 256 << 10
"""Of larger answers and events only the usage is looked for: to build all values would hold up every other call."""
DONE = b"[DONE]"
_END_BYTES = 1 << 16
_DECODER = json.JSONDecoder()


class Tokens(NamedTuple):
    """Tokens in and out; ``cached``: those of the input that an endpoint read from its cache."""

    input: int
    output: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The JSON of a request with places for the model's name: between ``head`` and ``pieces``, and between these."""

    head: bytes
    pieces: Sequence[bytes | memoryview] = field(repr=False)

    def render(self, model: str) -> bytes:
        """The body for an endpoint's model."""
        return b"".join([self.head, json.dumps(model).encode().join(self.pieces)])


def request_body(fields: Mapping[str, Any]) -> RequestBody:
    """The body of these fields, which name no model; raises ``PromptError`` for what JSON cannot hold."""
    try:
        return RequestBody(b'{"model": ', (b"", b", " + json.dumps(fields)[1:].encode()))
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(error).__name__
    raise PromptError(f"messages or fields cannot be written as JSON ({kind})")


def estimate_call(fields: Mapping[str, Any], output_tokens: int) -> tuple[int, int]:
    """The tokens that a call with these fields may use, before it is made.

    In: its chat, prompt and input, all that there are, and its tools. Out: the larger of ``max_completion_tokens`` and
    ``max_tokens``, else ``output_tokens``, for each answer that is asked for; none where the fields are those of
    embeddings. Servers also read 100.0 and "100" as 100.
    """
    words = sum(tokens_of(fields.get(key)) for key in ("messages", "prompt", "input", "suffix"))
    more = [fields[key] for key in ("tools", "functions", "response_format", "prediction") if fields.get(key)]
    given = words + sum(map(tokens_of_json, more))
    if "messages" not in fields and "prompt" not in fields:
        return given, 0
    answers = max(1, *(_count(fields.get(key), MAX_ANSWERS) for key in ("n", "best_of")))
    prompts = fields.get("prompt")
    if isinstance(prompts, list) and prompts and type(prompts[0]) is not int:
        answers *= len(prompts)
    each = requested_tokens(fields) or min(output_tokens, MAX_ANSWER_TOKENS)
    return given, min(each * answers, MAX_TOKENS)


def requested_tokens(fields: Mapping[str, Any]) -> int:
    """The most tokens of an answer that a body asks for, 0 where it does not say."""
    return max(_count(fields.get(key), MAX_ANSWER_TOKENS) for key in ("max_completion_tokens", "max_tokens"))


def _count(value: Any, most: int) -> int:
    """A whole number above 0 as servers read it, ``most`` for a larger one; 0 for anything else."""
    if isinstance(value, str) and len(value) <= 20:
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0
    return int(min(value, most))


def text_of(body: Mapping[str, Any], part: str) -> str:
    """The text of the first choice: of its ``message``, or of a chunk's ``delta``."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    inner = first.get(part) if isinstance(first, Mapping) else None
    content = inner.get("content") if isinstance(inner, Mapping) else None
    return content if isinstance(content, str) else ""


def parse_body(data: bytes, endpoint: str) -> dict[str, Any]:
    """The JSON object of an answer or event; raises ``BrokenAnswerError`` for anything else."""
    value = _object(data)
    if value is None:
        raise BrokenAnswerError(f"the answer of {endpoint} is no JSON object", causes=((endpoint, "sent no JSON"),))
    return value


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[bytes, list[bytes]], None]:
    """The same bytes, cut after line ends only, each piece with the data of the events in it, ``[DONE]`` included.

    Of a stream that breaks, no half of an event is passed on; the last line of one that ends needs no line end. A line
    longer than ``MAX_EVENT_BYTES`` ends it.
    """
    held: list[bytes] = []
    size = 0
    async for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            lines = b"".join([*held, chunk[:end]])
            held, size = [], 0
            yield lines, data_of(lines)
        if rest := chunk[end:]:
            held.append(rest)
            size += len(rest)
            if size > MAX_EVENT_BYTES:
                return
    if held:
        lines = b"".join(held)
        yield lines, data_of(lines)


def data_of(lines: bytes) -> list[bytes]:
    """The data of the server-sent events in whole lines."""
    fields = [line.strip().partition(b":") for line in lines.split(b"\n")]
    return [data.strip() for name, _, data in fields if name == b"data"]


def usage_of(body: Mapping[str, Any]) -> Tokens | None:
    """The tokens in and out that an endpoint counted, or ``None``."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    given, made = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not all(_is_count(each) for each in (given, made)):
        return None
    return Tokens(given, made, min(_cached(usage), given))  # type: ignore[arg-type, type-var]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _cached(usage: Mapping[str, Any]) -> int:
    """Input tokens that were read from a cache, in the forms of OpenAI and Gemini, DeepSeek, Moonshot and Anthropic."""
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    places = [
        details.get("cached_tokens") if isinstance(details, Mapping) else None,
        *(usage.get(key) for key in ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")),
    ]
    return max((each for each in places if each is not None and _is_count(each)), default=0)


_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size|limit)|maximum (context|input|prompt|sequence)|(prompt|input|message|request)s?"
    r"( is| are|'s)? too (long|large)|too many (input )?tokens|reduce the length"
    r"|exceeds? the (maximum|max|model).{0,30}tokens"
    r"|(token|input token) count.{0,40}exceed|max_model_len|longer than the (maximum|model)",
    re.DOTALL,
)
_NO_MODEL = re.compile(
    r"model.{0,200}(not found|not exist|no longer|decommissioned|deprecated|retired|not available)", re.DOTALL
)
_TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
_NO_MODEL_CODES = frozenset({"model_not_found", "model_decommissioned", "deploymentnotfound", "model_not_available"})
_SAID_CHARS = 2000


def unfit_by(status: int, body: bytes) -> Unfit | None:
    """Why an endpoint that refused a call says it cannot do it: by a code, or by the wordings in use; else ``None``."""
    if status == 413:
        return "too long"
    value = _object(body) or {}
    error = value.get("error", value)
    said = error if isinstance(error, Mapping) else {"message": error}
    codes = {str(said.get(key)).lower() for key in ("code", "type")}
    message = str(said.get("message") or said.get("detail") or "")[:_SAID_CHARS].lower()
    if status in (400, 422) and (codes & _TOO_LONG_CODES or _TOO_LONG.search(message)):
        return "too long"
    named = _NO_MODEL.search(message) or ("not_found_error" in codes and message.startswith("model:"))  # Anthropic's
    return "no such model" if codes & _NO_MODEL_CODES or (status in (404, 410) and named) else None


class Meter:
    """Counts the tokens of one answer as it passes: the endpoint's own count, and an estimate."""

    def __init__(self) -> None:
        self.usage: Tokens | None = None
        """What the endpoint counted so far, if it did."""
        self._bytes = self._events = 0
        self._end = b""

    @property
    def made(self) -> int:
        """An estimate of the answer's tokens so far, by its bytes; an event with words in it is a token at least."""
        return max(self._events, tokens_of_bytes(self._bytes))

    def see(self, data: bytes) -> None:
        """Count a whole answer, or the data of one event."""
        if data == DONE:
            return
        if len(data) > MAX_PARSED_BYTES:
            self.usage = _find_usage(data) or self.usage
            self.see_size(len(data))
            return
        body = _object(data)
        if body is None:  # plain text, or an event in several lines: it is paid for all the same
            self.see_size(len(data))
            return
        self.usage = usage_of(body) or self.usage
        choices = body.get("choices")
        if isinstance(choices, list):
            self.see_size(sum(map(_size, choices)))
        elif self.usage is None:  # another API's answer is paid for as well
            self.see_size(len(data))

    def see_part(self, part: bytes) -> None:
        """Count a part of a body that is too large to be held; ``see_end`` looks for the usage in the last of them."""
        self.see_size(len(part))
        self._end = (self._end + part)[-_END_BYTES:]

    def see_end(self) -> None:
        """Look for the usage at the end of a body that was seen in parts."""
        self.usage = _find_usage(self._end)

    def see_size(self, size: int) -> None:
        """Count a part of an answer by its bytes alone."""
        self._bytes += size
        self._events += size > 0


def _size(choice: Any) -> int:
    """Bytes of what a choice says: its text, and what of a message is no text, such as a tool call."""
    if not isinstance(choice, Mapping):
        return 0
    said = next((choice[key] for key in ("message", "delta", "text") if choice.get(key)), None)
    parts = [each for key, each in said.items() if key != "role"] if isinstance(said, Mapping) else [said]
    texts = [each if isinstance(each, str) else json.dumps(each) for each in parts if each]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _object(data: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        return value if isinstance(value, dict) else None
    return None


def _find_usage(data: bytes) -> Tokens | None:
    """The last usage in a large body, found without reading the rest of it."""
    at = len(data)
    for _ in range(8):
        at = data.rfind(b'"usage"', 0, at)
        if at < 0:
            break
        after = data[at + 7 : at + 4096].decode("utf-8", "replace").lstrip()
        if after.startswith(":") and data[at - 1 : at] != b"\\":  # after a backslash it is part of a text
            with contextlib.suppress(ValueError, RecursionError):
                usage = usage_of({"usage": _DECODER.raw_decode(after[1:].lstrip())[0]})
                if usage is not None:
                    return usage
    return None
