"""Chats as OpenAI's clients send them, read and never changed: their texts, images, and tokens as an estimate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..errors import PromptError

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
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f'message {i}: expected an object with a "role"')
    return cast("Sequence[Mapping[str, Any]]", messages)


def _kind(messages: object) -> str:
    return "an empty list" if isinstance(messages, Sequence) else f"a {type(messages).__name__}"


def beginning(chat: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """A conversation up to its first question: what decides for all of it, in every process and after a restart."""
    users = [i for i, message in enumerate(chat) if message["role"] == "user"]
    return chat[: users[0] + 1] if users else chat


def _parts(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else ()


def _is_image(part: object) -> bool:
    return isinstance(part, Mapping) and "image" in str(part.get("type"))


def texts_of(message: Mapping[str, Any]) -> Sequence[str]:
    """The texts of a message: its content, or the text parts of that."""
    content = message.get("content")
    found = [content, *(part.get("text") for part in _parts(message) if isinstance(part, Mapping))]
    return [text for text in found if isinstance(text, str)]


def has_image(message: Mapping[str, Any]) -> bool:
    """Whether a part of a message is an image."""
    return any(_is_image(part) for part in _parts(message))


def tokens_of(words: Any) -> int:
    """An estimate of the tokens of a prompt, a chat, or what else a body may hold in their place: token ids, a list.

    Texts count by their bytes, images and other attachments by the piece, however many bytes they have, and token ids
    one each. What is none of these counts nothing.
    """
    if isinstance(words, str):
        return estimate_tokens(words)
    if isinstance(words, Mapping):
        return _tokens_of_message(words)
    if not isinstance(words, list | tuple):
        return 0
    if words and type(words[0]) is int:
        return len(words)
    return sum(len(each) if isinstance(each, list | tuple) else tokens_of(each) for each in words)


def _tokens_of_message(message: Mapping[str, Any]) -> int:
    attached = sum(1 for part in _parts(message) if not isinstance(part, Mapping) or "text" not in part)
    calls = [message[key] for key in ("tool_calls", "function_call") if message.get(key)]
    texts = sum(map(estimate_tokens, texts_of(message)))
    return texts + attached * TOKENS_PER_ATTACHMENT + sum(map(tokens_of_json, calls))


def tokens_of_json(value: Any) -> int:
    """An estimate for what an endpoint reads or writes as JSON, such as tools and the calls of them."""
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
