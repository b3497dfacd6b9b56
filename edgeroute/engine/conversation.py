"""What the human asks in a chat, apart from what a program wrote around it; and what of a chat is scored at each ask.

Coding agents wrap their own words around the human's: reminders, the state of the editor, the output of commands. Such
harness blocks stand between two markers. A score of the whole would be a score of the harness. So the chat policy
``asks`` takes the blocks out, passes over the results of tools, and reads what is left of the messages of role
``user``: the newest ask whole and, before it, the end of the earlier ones, oldest first, a blank line between two.

Whoever writes a prompt can hide text between such markers. That steers the score, as other wordings do too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..bundle.manifest import ChatPolicy, TextPolicy
from ..errors import PromptError

Markers = tuple[str, str]
"""Where a harness block begins and ends."""

_TAGS = (
    *("system-reminder", "environment_context", "environment_details", "user_instructions", "user_info"),
    *("local-command-stdout", "local-command-stderr", "local-command-caveat", "command-name", "command-message"),
    *("bash-input", "bash-stdout", "bash-stderr", "ide_selection", "ide_opened_file", "ide_diagnostics"),
    *("user-prompt-submit-hook", "task-notification", "workspace_info", "environment_info", "editor_context"),
    *("editorContext", "reminderInstructions", "additional_data", "open_and_recently_viewed_files", "git_status"),
    *("project_layout", "system_reminder", "system-notification", "permissions_instructions", "collaboration_mode"),
    *("turn_aborted", "turn_context", "skills_instructions", "available_skills"),
)
HARNESS: tuple[Markers, ...] = (
    *((f"<{tag}>", f"</{tag}>") for tag in _TAGS),
    ("# AGENTS.md instructions for", "</INSTRUCTIONS>"),
)
"""The blocks of the coding agents in use. A marker ``<name>`` also stands for ``<name attribute="…">``."""

MAX_PAIRS, MAX_MARKER_CHARS = 100, 200
MAX_SEARCHED = 1 << 20
"""A message of more characters keeps its blocks: its middle is not scored in any case."""
MAX_TURNS = 256
"""Asks of one conversation that are scored at most: a request costs bounded time, however many messages it has."""
_QUOTES = frozenset("`'\"\u2018\u2019\u201c\u201d\u00ab\u00bb\u300c\u300d")
_LINE_REACH = 200
_TAG_NAME = re.compile(r"<([A-Za-z_][\w.:-]*)>")


class Turn(NamedTuple):
    """What is scored at one ask: ``newest`` as whole as the token cap lets it, and the end of what came before it.

    A tuple, since a conversation of 200 turns makes 200 of them at every call.
    """

    newest: str
    earlier: tuple[str, ...] = ()


def policy_of(text: TextPolicy | None, chat: ChatPolicy | None = None) -> ChatPolicy | None:
    """The chat policy in force: the caller's, else ``asks`` in the place of a manifest's ``last_user``, else its own.

    For single prompts, on which bundles are calibrated, ``asks`` and ``last_user`` are the same.
    """
    if chat is not None or text is None:
        return chat
    return "asks" if text.chat == "last_user" else text.chat


def check_markers(pairs: Sequence[Sequence[str]]) -> str | None:
    """What is wrong with pairs of markers, or ``None``."""
    if len(pairs) > MAX_PAIRS:
        return f"expected at most {MAX_PAIRS} pairs of markers, found {len(pairs)}"
    for pair in pairs:
        right = not isinstance(pair, str) and len(pair) == 2 and all(isinstance(each, str) for each in pair)
        if not right or not all(each.strip() and len(each) <= MAX_MARKER_CHARS for each in pair) or pair[0] == pair[1]:
            return (
                'expected pairs of two different markers, such as ["<notes>", "</notes>"], of at most '
                f"{MAX_MARKER_CHARS} characters each"
            )
    return None


def turns_of(
    chat: object, policy: TextPolicy, *, chars: int, last: int = 1, harness: tuple[Markers, ...] = ()
) -> list[Turn]:
    """The last turns of a chat under a chat policy, oldest first: one for each ask, at most ``last``, at least one.

    ``chars``: about how many characters before the newest ask can matter. ``harness``: markers beside the known ones.
    Raises ``PromptError`` for what is no chat and, but under ``last_message``, for one without a message of role
    ``user``.
    """
    messages = read_messages(chat)
    users = [i for i, (role, _) in enumerate(messages) if role == "user"]
    if policy.chat == "last_message":
        return [Turn(messages[i][1]) for i in [*(i for i in users if i < len(messages) - 1), len(messages) - 1][-last:]]
    if not users:
        raise PromptError('the chat has no message of role "user"')
    if policy.chat == "asks":
        return windows(_asks([messages[i][1] for i in users], chars, last, harness), chars)[-last:]
    first, turns = max(len(users) - last, 0), []
    for i in range(first, len(users)):
        begin = users[max(i + 1 - policy.turns, 0)] if policy.chat == "last_turns" else users[i]
        said = (text for role, text in messages[begin : users[i]] if role in ("user", "assistant"))
        turns.append(Turn(messages[users[i]][1], tuple(said)))
    return turns


def first_turn(chat: object, policy: TextPolicy, *, chars: int, harness: tuple[Markers, ...] = ()) -> Turn:
    """The turn of a conversation's first ask. Raises as ``turns_of`` does."""
    messages = read_messages(chat)
    users = [text for role, text in messages if role == "user"]
    if policy.chat == "asks" and users:
        asks = (_stripped(text, _compiled(harness)) for text in users)
        return Turn(next((ask for ask in asks if ask), users[-1]))
    return Turn(users[0]) if users else turns_of(chat, policy, chars=chars, harness=harness)[-1]


def _asks(texts: Sequence[str], chars: int, last: int, harness: tuple[Markers, ...]) -> list[str]:
    """The last asks, oldest first: as many as are wanted, and before them as many as reach ``chars`` characters.

    Where there is none, the newest text as it stands.
    """
    found: list[str] = []
    beyond, known = 0, _compiled(harness)
    for text in reversed(texts):
        ask = _stripped(text, known)
        if not ask:
            continue
        found.append(ask)
        beyond += len(ask) if len(found) > last else 0
        if beyond > chars:
            break
    return found[::-1] or [texts[-1]]


def asks_of(chat: object, *, chars: int, last: int, harness: tuple[Markers, ...] = ()) -> tuple[str, ...]:
    """The last asks of a chat, oldest first: ``last`` or more of them. Raises as ``turns_of`` does."""
    users = [text for role, text in read_messages(chat) if role == "user"]
    if not users:
        raise PromptError('the chat has no message of role "user"')
    return tuple(_asks(users, chars, last, harness))


def last_window(asks: tuple[str, ...], chars: int) -> Turn:
    """The last of ``windows``."""
    begin, held = len(asks) - 1, 0
    while begin > 0 and held < chars:
        begin -= 1
        held += len(asks[begin]) + 2
    return Turn(asks[-1], asks[begin:-1])


def windows(asks: Sequence[str], chars: int) -> list[Turn]:
    """Each ask with those before it, as many as reach ``chars`` characters."""
    all_asks, turns = tuple(asks), []
    begin = held = 0  # the first ask of the window, and the characters of all in it
    for i, ask in enumerate(all_asks):
        while begin < i - 1 and held - len(all_asks[begin]) - 2 >= chars:
            held -= len(all_asks[begin]) + 2
            begin += 1
        turns.append(Turn(ask, all_asks[begin:i]))
        held += len(ask) + 2
    return turns


class _Known(NamedTuple):
    """A pattern of all markers and of code fences, openings that are no tags, and which pair a marker is of."""

    pattern: re.Pattern[str]
    openings: tuple[str, ...]
    kinds: Mapping[str, tuple[int, bool]]


def without_harness(text: str, harness: tuple[Markers, ...] = ()) -> str:
    """The text without harness blocks and blank ends; empty where nothing else is in it. Takes linear time.

    A block may hold others. What looks like one stays where it is quoted: within a fenced block of code, after a
    quotation mark, or in the middle of a line. A marker without its other half is text.
    """
    return _stripped(text, _compiled(harness))


def _stripped(text: str, known: _Known) -> str:
    if "<" not in text:
        for opening in known.openings:
            if opening in text:
                break
        else:
            return text.strip()
    if len(text) > MAX_SEARCHED:
        return text.strip()
    blocks = _blocks(text, known)
    if not blocks:
        return text.strip()
    kept, at = [], 0
    for start, stop in blocks:
        kept.append(text[at:start].strip())
        at = stop
    kept.append(text[at:].strip())
    return "\n".join(part for part in kept if part)


@functools.lru_cache(maxsize=64)
def _compiled(harness: tuple[Markers, ...]) -> _Known:
    """The known markers and these, compiled on first use: not every process reads chats."""
    harness = HARNESS + harness
    tags: list[str] = []
    literals: list[str] = []
    kinds: dict[str, tuple[int, bool]] = {}
    for number, (opening, closing) in enumerate(harness):
        kinds[closing], kinds[opening] = (number, False), (number, True)
        if (name := _TAG_NAME.fullmatch(opening)) and closing == f"</{name[1]}>":
            tags.append(re.escape(name[1]))
        else:
            literals += [opening, closing]
    ways = [r"(?P<fence>^[ \t]*```)"]
    if tags:
        ways.append(rf"<(?P<end>/?)(?P<name>{'|'.join(tags)})(?:\s[^<>]{{0,400}})?>")
    if literals:
        ways.append(f"(?P<literal>{'|'.join(re.escape(each) for each in sorted(literals, key=len, reverse=True))})")
    openings = tuple(opening for opening, closing in harness if opening in literals and not opening.startswith("<"))
    return _Known(re.compile("|".join(ways), re.MULTILINE), openings, kinds)


def _blocks(text: str, known: _Known) -> list[tuple[int, int]]:
    """Where the outermost blocks are, in order."""
    pattern, kinds = known.pattern, known.kinds
    blocks: list[tuple[int, int]] = []
    opened: dict[int, list[tuple[int, bool]]] = {}
    depth, fenced = 0, False
    for match in pattern.finditer(text):
        start, stop = match.span()
        if match["fence"] is not None:
            if not depth:
                fenced = not fenced and text.find("\n```", stop) >= 0
            continue
        marker = match.groupdict()
        name = marker.get("name")
        kind, opens = kinds[f"<{marker['end']}{name}>" if name else match[0]]
        before, after = text[max(start - 1, 0) : start], text[stop : stop + 1]
        if before in _QUOTES and after in _QUOTES:  # the marker itself is what is spoken of
            continue
        if opens:
            quoted = fenced or before in _QUOTES
            opened.setdefault(kind, []).append((start, quoted))
            depth += not quoted
        elif opened.get(kind):
            begin, quoted = opened[kind].pop()
            depth -= not quoted
            if not quoted and not _within_a_line(text, begin, stop, blocks[-1][1] if blocks else 0, pattern):
                while blocks and blocks[-1][0] >= begin:
                    blocks.pop()
                blocks.append((max(begin, blocks[-1][1]) if blocks else begin, stop))
    return blocks


def _within_a_line(text: str, begin: int, stop: int, last_stop: int, pattern: re.Pattern[str]) -> bool:
    """Whether a short block has words of the same line before and after it, as one that a sentence speaks of."""
    if stop - begin > _LINE_REACH or "\n" in text[begin:stop]:
        return False
    before = text[max(begin - _LINE_REACH, min(last_stop, begin)) : begin].rpartition("\n")[2].strip()
    after = text[stop : stop + _LINE_REACH].partition("\n")[0].lstrip()
    return bool(before and after) and pattern.match(after) is None


def read_messages(chat: object) -> list[tuple[str, str]]:
    """Role and text of each message; raises ``PromptError`` for what is no chat."""
    if not isinstance(chat, Sequence) or isinstance(chat, bytes | bytearray):
        raise PromptError(f"expected a str or a list of messages, found {type(chat).__name__}")
    if not chat:
        raise PromptError("the chat has no messages")
    messages = []
    for i, message in enumerate(chat):
        if type(message) is not dict and not isinstance(message, Mapping):  # the question to Mapping is a slow one
            raise PromptError(f'message {i}: expected an object with a "role"')
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise PromptError(f'message {i}: expected an object with a "role"')
        messages.append((role, content if type(content) is str else _text_of(content, i)))
    return messages


def _text_of(content: object, index: int) -> str:
    """The text of a message: a string, the text parts of a list, or nothing (a tool call)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise PromptError(f"message {index}: expected content of text or text parts")
    texts = [part.get("text", "") for part in content if part.get("type") in ("text", "input_text")]
    if not all(isinstance(text, str) for text in texts):
        raise PromptError(f"message {index}: expected a text part to hold text")
    return "\n".join(texts)
