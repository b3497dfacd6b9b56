"""Chats as OpenAI's clients send them: what they hold is looked at, and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..errors import PromptError

Messages = str | Sequence[Mapping[str, Any]]
"""A prompt, or a chat as OpenAI's ``messages``."""
BYTES_PER_TOKEN = 4
"""An estimate for English text; other scripts and code take more tokens."""


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


def tokens_of(messages: Messages) -> int:
    """An estimate, of the texts alone."""
    return sum(estimate_tokens(text) for message in check_messages(messages) for text in texts_of(message))


def estimate_tokens(text: str) -> int:
    """Tokens of a text by its bytes: an estimate."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)
