"""Text encoders for tests of ``edgeroute.engine.text``, and its rule of truncation written down again, naively."""

from __future__ import annotations

from typing import Any

from bundles import WORDS, make_tokenizer
from hypothesis import strategies as st

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.engine.text import CHARS_PER_TOKEN, TextEncoder

TOKENIZER = make_tokenizer()
DATA = TOKENIZER.to_str().encode()
SHORT = [word for word in WORDS if len(word) < CHARS_PER_TOKEN - 1]
CAP = 32


def encoder(*, chat: Any = None, tokenizer: bytes = DATA, harness: Any = (), **policy: Any) -> TextEncoder:
    text = TextPolicy(**{"max_tokens": CAP, "keep": "head_tail", "chat": "last_user", **policy})
    return TextEncoder(tokenizer, text, chat=chat, harness=harness)


def text_of(ids: list[int]) -> str:
    return " ".join(TOKENIZER.id_to_token(i) for i in ids)


def naive(
    text: str, *, cap: int = CAP, keep: str = "head_tail", template: str = "{prompt}", older: str = ""
) -> tuple[list[int], bool]:
    """The rule, written down again: tokenize all, keep the ends of the newest and then the end of the older text."""

    def ids(part: str) -> list[int]:
        return TOKENIZER.encode(part, add_special_tokens=False).ids

    before, after = template.split("{prompt}")
    body, past = ids(text), ids(older)
    room = cap - 2 - len(ids(before)) - len(ids(after))
    truncated = len(past) + len(body) > room
    if len(body) > room:
        head = room if keep == "head" else room - room // 2
        body = body[:head] + body[len(body) - (room - head) :]
    left = room - len(body)
    kept = [*ids(before), *past[max(0, len(past) - left) :][:left], *body, *ids(after)]
    return [TOKENIZER.token_to_id("[CLS]"), *kept, TOKENIZER.token_to_id("[SEP]")], truncated


words = st.sampled_from([1, 5, 25, 40, 120]).flatmap(lambda n: st.lists(st.sampled_from(SHORT), min_size=1, max_size=n))
words |= st.lists(st.sampled_from(SHORT), min_size=20, max_size=60)
