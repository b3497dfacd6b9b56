"""Prompt or chat to token ids, in time bounded by the token cap whatever the length of the text."""

from __future__ import annotations

import copy
import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

from ..bundle.manifest import ChatPolicy, TextPolicy
from ..errors import GraphError, PromptError, is_interrupt
from .conversation import Markers, Turn, asks_of, check_markers, first_turn, last_window, turns_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Prompt = str | Sequence[Mapping[str, Any]]

# A text is cut to this many characters per wanted token before it is tokenized (1M characters: 0.6 ms, not 667).
CHARS_PER_TOKEN = 10
# So few characters are tried first: 2,560 Chinese ones are as many tokens, 2.6 ms where 0.5 suffice.
_DENSE = 2
# Tokens more than wanted, so that the word that a cut splits is not among those taken.
_SLACK = 16
MOST_UNKNOWN = 0.5
"""The share of characters in unknown tokens up to which a prompt is scored."""
_BLANK_REACH = 1 << 14
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokens(NamedTuple):
    """Token ids within the cap, and whether any of the text was left out."""

    ids: list[int]
    truncated: bool


class TextEncoder:
    """The tokenizer of a bundle under its text policy.

    ``chat`` overrides the policy's choice of messages; ``harness`` are markers of blocks that are no asks, beside the
    known ones. ``highest_id`` is the largest token id that this tokenizer can give, its special tokens included. Raises
    ``GraphError`` when the tokenizer does not load.
    """

    def __init__(
        self,
        tokenizer: bytes,
        policy: TextPolicy,
        *,
        chat: ChatPolicy | None = None,
        harness: Sequence[Markers] = (),
    ) -> None:
        if chat is not None and chat not in get_args(ChatPolicy):
            raise PromptError(f"expected a chat policy of {', '.join(get_args(ChatPolicy))}, found {chat!r}")
        if (why := check_markers(harness)) is not None:
            raise PromptError(f"harness: {why}")
        self.policy = policy if chat is None else dataclasses.replace(policy, chat=chat)
        self.harness = tuple((opening, closing) for opening, closing in harness)
        self._tokenizer = _load(tokenizer)
        start, end = self._special_ids()
        self._before, self._after = (self.policy.template or "{prompt}").split("{prompt}")
        before, after = self._template_ids()
        self._opening, self._closing = start + before, after + end
        # From here on text is text: `[CLS]` in a prompt is three word pieces, and only a template's is a control token.
        self._tokenizer.encode_special_tokens = True
        same = self._template_ids() == (before, after)
        self._template_tokenizer = self._tokenizer if same else _load(tokenizer)
        room = policy.max_tokens - len(self._opening) - len(self._closing)
        self._room = _checked_room(room, policy.max_tokens)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.highest_id = int(max([*vocabulary.values(), *self._run("", special=True)], default=0))
        self._unknown = _unknown_id(self._tokenizer, tokenizer)

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        whole, text = self._run("a", special=True), self._run("a")
        for i in range(len(whole) - len(text) + 1):
            if text and whole[i : i + len(text)] == text:
                return whole[:i], whole[i + len(text) :]
        raise GraphError("the tokenizer does not give a text, with special tokens around it")

    def _template_ids(self) -> tuple[list[int], list[int]]:
        before, after = (self._run(part) if part else [] for part in (self._before, self._after))
        return before, after

    def capped(self, max_tokens: int) -> TextEncoder:
        """The same under a smaller token cap; the tokenizer is shared. Raises ``GraphError`` where no text fits in."""
        other = copy.copy(self)
        other.policy = dataclasses.replace(self.policy, max_tokens=max_tokens)
        other._room = _checked_room(self._room - self.policy.max_tokens + max_tokens, max_tokens)
        return other

    def timed(self, add: Callable[[float], None]) -> TextEncoder:
        """The same encoder, which tells ``add`` the seconds of each run of the tokenizer; this one does not."""
        other = copy.copy(self)
        other._tokenizer = cast("Tokenizer", _Timed(self._tokenizer, add))
        if self._template_tokenizer is self._tokenizer:
            other._template_tokenizer = other._tokenizer
        return other

    def encode(self, prompt: Prompt | Turn) -> Tokens:
        """Return the token ids of a prompt, a chat or one of its turns, at most ``max_tokens`` with the special ones.

        Raises ``PromptError`` for anything that is no prompt, has no text, or is mostly unknown to the tokenizer.
        """
        return self._tokens(prompt, unchecked=False)

    def encode_unchecked(self, prompt: Prompt | Turn) -> Tokens:
        """``encode`` where it does not matter how much of the prompt the tokenizer knows, as for golden scores."""
        return self._tokens(prompt, unchecked=True)

    def _tokens(self, prompt: Prompt | Turn, *, unchecked: bool) -> Tokens:
        newest, older, cut = self._select(prompt)
        if not newest.strip():
            raise PromptError("the prompt is empty: there is nothing to score")
        tokens = self._encode_text(newest)
        if not unchecked and self._unknown in tokens.ids:
            self._refuse_unreadable(newest)
        return self._prepend(tokens, newest, older, cut) if older else tokens

    def turns(self, chat: object, last: int = 1) -> list[Turn]:
        """The last turns of a chat, oldest first, each of which can be scored: see ``conversation.turns_of``."""
        if isinstance(chat, str):
            return [Turn(chat)]
        return turns_of(chat, self.policy, chars=self._limit(), last=last, harness=self.harness)

    def asks(self, chat: object, last: int) -> tuple[str, ...] | None:
        """The last asks of a chat, ``last`` or more, oldest first; ``None`` under another chat policy than ``asks``."""
        if self.policy.chat != "asks":
            return None
        return (chat,) if isinstance(chat, str) else asks_of(chat, chars=self._limit(), last=last, harness=self.harness)

    def turn_of(self, asks: tuple[str, ...]) -> Turn:
        """What is scored at the last of these asks, which are all that there are of a chat, or enough of them."""
        return last_window(asks, self._limit())

    def first_turn(self, chat: object) -> Turn:
        """The turn of a chat's first ask. Raises ``PromptError`` as ``encode`` does."""
        if isinstance(chat, str):
            return Turn(chat)
        return first_turn(chat, self.policy, chars=self._limit(), harness=self.harness)

    def _select(self, prompt: Prompt | Turn) -> tuple[str, str, bool]:
        """The text to score, the end of what came before it, and whether that was cut."""
        if isinstance(prompt, str):
            return _clean(prompt, self._limit()), "", False
        turn = prompt if isinstance(prompt, Turn) else self.turns(prompt)[-1]
        newest = _clean(turn.newest, self._limit())
        older = ""
        for text in reversed(turn.earlier):
            older = text[-self._limit() :] + "\n\n" + older
            if len(older) > self._limit():
                return newest, _whole_characters(older[-self._limit() :]), True
        return newest, _whole_characters(older), False

    def _refuse_unreadable(self, text: str) -> None:
        """Raise ``PromptError`` where most characters are in unknown tokens, at the two ends of a long text.

        Characters count, not tokens: a tokenizer that splits at blanks makes a Chinese sentence one unknown token. An
        unknown token of ASCII alone does not count: it is a word longer than the tokenizer takes, as in base64.
        """
        reach = _DENSE * (self._room + _SLACK)
        read = unknown = 0
        for part in (text,) if len(text) <= 2 * reach else (text[:reach], text[-reach:]):
            encoded = self._encoded(part)
            for token, (start, stop) in zip(encoded.ids, encoded.offsets, strict=True):
                read += stop - start
                if token == self._unknown and not part[start:stop].isascii():
                    unknown += stop - start
        if unknown > MOST_UNKNOWN * read:
            raise PromptError(
                f"the tokenizer knows too little of the prompt: {unknown} of {read} characters are in unknown tokens, "
                f"more than {MOST_UNKNOWN:.0%}. The bundle was not made for this language or script"
            )

    def _limit(self) -> int:
        return self._room * CHARS_PER_TOKEN

    def _encode_text(self, text: str) -> Tokens:
        head = self._room if self.policy.keep == "head" else (self._room + 1) // 2
        tail = self._room - head
        if len(text) > self._limit() or self._is_dense(text):
            # The two ends are tokenized apart; each has characters enough for its share of the tokens.
            return Tokens(self._assemble(self._end(text, head, last=False), self._end(text, tail, last=True)), True)
        if self.policy.template is not None and len(whole := self._in_template(text)) <= self.policy.max_tokens:
            return Tokens(whole, False)
        body = self._run(text)
        if len(body) <= self._room:
            return Tokens(self._assemble(body), False)
        return Tokens(self._assemble(body[:head], _last(body, tail)), True)

    def _in_template(self, text: str) -> list[int]:
        """A text and its template as one run gives them: word pieces may reach from one into the other."""
        tokenizer = self._template_tokenizer
        if tokenizer is not self._tokenizer and _encoded(tokenizer, text).ids != (body := self._run(text)):
            return self._assemble(body)  # the text holds what that tokenizer would read as control tokens
        return cast("list[int]", _encoded(tokenizer, self._before + text + self._after, special=True).ids)

    def _is_dense(self, text: str) -> bool:
        """Whether two characters a token already overflow the room; looked at where plain ASCII cannot be sure."""
        few = _DENSE * (self._room + _SLACK)
        return len(text) > few and not text.isascii() and len(self._run(text[:few])) > self._room + _SLACK

    def _end(self, text: str, count: int, *, last: bool) -> list[int]:
        """The first or last ``count`` tokens of a long text, from about as few characters as give them."""
        if not count:
            return []
        chars, most = _DENSE * count, CHARS_PER_TOKEN * count
        while True:
            ids = self._run(text[-chars:] if last else text[:chars])
            if len(ids) >= count + _SLACK or chars == most:
                return _last(ids, count) if last else ids[:count]
            chars = min(int(1.2 * chars * (count + _SLACK) / max(len(ids), 1)), most) if chars < most // 2 else most

    def _prepend(self, tokens: Tokens, newest: str, older: str, cut: bool) -> Tokens:
        """Fill the room that the newest message leaves with the end of the older ones."""
        if tokens.truncated:
            return tokens
        body, past = self._run(newest), self._run(older)
        room = self._room - len(body)
        if room <= 0:
            return Tokens(tokens.ids, cut or bool(past))
        return Tokens(self._assemble(_last(past, room), body), cut or len(past) > room)

    def _assemble(self, *parts: list[int]) -> list[int]:
        """Join ids within template and special tokens.

        As lists: cutting an ``Encoding`` keeps all that was cut off, and merging two multiplies that.
        """
        return [*self._opening, *chain.from_iterable(parts), *self._closing]

    def _run(self, text: str, *, special: bool = False) -> list[int]:
        return cast("list[int]", self._encoded(text, special=special).ids)

    def _encoded(self, text: str, *, special: bool = False) -> Any:
        return _encoded(self._tokenizer, text, special=special)


class _Timed:
    """A tokenizer that tells the seconds of each of its runs."""

    def __init__(self, tokenizer: Tokenizer, add: Callable[[float], None]) -> None:
        self._encode, self._add = tokenizer.encode, add

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        start = time.perf_counter()
        try:
            return self._encode(text, add_special_tokens=add_special_tokens)
        finally:
            self._add(time.perf_counter() - start)


def _checked_room(room: int, max_tokens: int) -> int:
    if room < 2:
        raise GraphError(f"the template leaves {room} of {max_tokens} tokens for the prompt")
    return room


def _load(data: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise GraphError(f"the tokenizer does not load: {type(error).__name__}") from None


def _unknown_id(tokenizer: Tokenizer, data: bytes) -> int | None:
    """The id of what the tokenizer does not know; ``None`` where it reads every text, byte by byte or otherwise."""
    model = tokenizer.model
    name = getattr(model, "unk_token", None)
    if name is not None:
        return cast("int | None", tokenizer.token_to_id(name))
    if type(model).__name__ != "Unigram":
        return None
    import json

    found = json.loads(data)["model"]
    return None if found.get("byte_fallback") else found.get("unk_id")


def _encoded(tokenizer: Tokenizer, text: str, *, special: bool = False) -> Any:
    try:
        return tokenizer.encode(text, add_special_tokens=special)
    except BaseException as error:  # a Rust panic is no Exception
        if is_interrupt(error):
            raise
        raise GraphError(f"the tokenizer failed on a prompt: {type(error).__name__}") from None


def _clean(text: str, limit: int) -> str:
    """Cut blank ends and the middle out of a long text; it stays longer than ``limit`` exactly if text was lost.

    Blanks beyond the reach count as text: looking through 10 MB of them would take 3 to 30 ms.
    """
    if len(text) > limit:
        head, tail = text[:_BLANK_REACH], text[-_BLANK_REACH:]
        start = len(head) - len(head.lstrip())
        stop = len(text) - len(tail) + len(tail.rstrip())
        long = stop - start > 2 * limit
        text = text[start : start + limit] + text[stop - limit : stop] if long else text[start:stop]
    return _whole_characters(text)


def _whole_characters(text: str) -> str:
    """Replace lone surrogates, which are no Unicode, one for one."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _last(ids: list[int], count: int) -> list[int]:
    return ids[len(ids) - count :] if len(ids) > count else ids
