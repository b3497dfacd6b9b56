"""What conversations cost and what they get: time at turn 2 and turn 200, and the right target of marked turns.

    python -m benchmarks_latency.conversations [--model NAME] [--marks tests/conversations.jsonl] [--strong-share 0.5]

Time is of ``Chooser.choose`` in one thread, p50 and p90 over new turns of one conversation, beside a chooser that reads
the newest user message alone (``chat = "last_user"``, ``sticky = false``). Marks are those of
``tests/conversations.jsonl``; beside the default there are ``last_user``, the strong model always, and keywords.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeroute.gateway.choose import Chooser
from edgeroute.gateway.config import read_settings
from edgeroute.gateway.endpoint import Endpoint
from edgeroute.gateway.settings import Settings

ASKS = ("rename the variable x to y", "now run the tests", "ok continue", "what does that return?", "commit it")
KEYWORDS = (
    *("prove", "derive", "design", "optimi", "beweis", "leite", "démontr", "prouve", "demuestra"),
    *("докаж", "证明", "推导"),
)
Chat = list[dict[str, Any]]
TOML = """
{top}
strong = ["big"]
weak = ["small"]
[endpoints.big]
url = "http://127.0.0.1:1/v1"
model = "big"
[endpoints.small]
url = "http://127.0.0.1:1/v1"
model = "small"
"""


def chooser(top: str) -> Chooser:
    """A chooser on a TOML that begins with ``top``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edgeroute.toml"
        path.write_text(TOML.format(top=top), encoding="utf-8")
        read: tuple[Settings, dict[str, Endpoint]] = read_settings(path)
    return Chooser.load(read[0], Path(), endpoints=read[1])


def conversation(turns: int) -> Chat:
    """A conversation of a coding agent; no two asks are alike."""
    chat: Chat = [{"role": "system", "content": "You are a coding agent. " * 50}]
    for i in range(turns):
        chat += [
            {"role": "user", "content": f"{ASKS[i % len(ASKS)]} ({i})"},
            {"role": "assistant", "content": "Done: three files changed, all tests pass. " * 20},
        ]
    return chat[:-1]


def times_ms(chosen: Chooser, turn: int, count: int = 200) -> list[float]:
    """Milliseconds of the first call at a turn, whose earlier asks were all seen at their own turns."""
    chat, found = conversation(turn), []
    for i in range(1, turn):
        chosen.choose(chat[: 2 * i])
    for i in range(count):
        fresh = [*chat[:-1], {"role": "user", "content": f"commit it, try {i}"}]
        fresh = json.loads(json.dumps(fresh))  # as a server has it: texts of its own
        start = time.perf_counter()
        chosen.choose(fresh)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def logic_ms(chosen: Chooser, turn: int, count: int = 200) -> list[float]:
    """The same where the newest ask is remembered too: what conversations cost beside the graph."""
    chat, found = conversation(turn), []
    chosen.choose(chat)
    for _ in range(count):
        fresh = json.loads(json.dumps(chat))
        start = time.perf_counter()
        chosen.choose(fresh)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def asked(chat: Sequence[dict[str, Any]]) -> list[Chat]:
    """The chat up to each of its asks."""
    return [list(chat[: i + 1]) for i, message in enumerate(chat) if message["role"] == "user"]


def right(rows: Sequence[dict[str, Any]], target: Callable[[Chat], str]) -> dict[str, float]:
    """Shares: of turns with the right target, of strong turns in conversations without a strong mark, of switches."""
    hits = turns = easy = easy_strong = switches = down = 0
    for row in rows:
        found = [target(chat) for chat in asked(row["messages"])]
        changes = [(a, b) for a, b in itertools.pairwise(found) if a != b]
        switches, down = switches + len(changes), down + sum(a == "strong" for a, _ in changes)
        hits += sum(mark in ("either", got) for mark, got in zip(row["targets"], found, strict=True))
        turns += len(found)
        if "strong" not in row["targets"]:
            easy, easy_strong = easy + len(found), easy_strong + found.count("strong")
    return {
        "right": hits / turns,
        "easy_strong": easy_strong / easy,
        "switches": switches,
        "down": down,
        "turns": turns,
    }


def by_keywords(chat: Chat) -> str:
    """Strong where the newest user message has one of a list of words."""
    text = json.dumps(chat[-1]["content"], ensure_ascii=False).lower()
    return "strong" if any(word in text for word in KEYWORDS) else "weak"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a bundle; the default bundle without it")
    parser.add_argument("--marks", help="JSON Lines of conversations with a target for each turn")
    parser.add_argument("--strong-share", type=float, default=0.5)
    options = parser.parse_args()
    top = f"strong_share = {options.strong_share}" + (f'\nbundle = "{options.model}"' if options.model else "")
    plain = f'{top}\nchat = "last_user"\nsticky = false'
    for turn in (2, 20, 200):
        new, last, logic = (
            sorted(times)
            for times in (times_ms(chooser(top), turn), times_ms(chooser(plain), turn), logic_ms(chooser(top), turn))
        )
        print(
            f"turn {turn:>3}: p50 {statistics.median(new):.3f} ms, p90 {new[len(new) * 9 // 10]:.3f}; last_user "
            f"{statistics.median(last):.3f}, {last[len(last) * 9 // 10]:.3f}; remembered {statistics.median(logic):.3f}"
        )
    if options.marks:
        rows = [json.loads(line) for line in Path(options.marks).read_text(encoding="utf-8").splitlines()]
        ours, newest = chooser(top), chooser(plain)
        ways: dict[str, Callable[[Chat], str]] = {
            "asks, up": lambda chat: ours.choose(chat).target,
            "last_user": lambda chat: newest.choose(chat).target,
            "always strong": lambda _: "strong",
            "keywords": by_keywords,
        }
        for part in ("build", "test"):
            for name, way in ways.items():
                found = right([row for row in rows if row["part"] == part], way)
                print(
                    f"{part:>5} {name:<14} right {found['right']:.1%}  strong on easy {found['easy_strong']:.1%}  "
                    f"switches {found['switches']:.0f}, {found['down']:.0f} down  ({found['turns']:.0f} turns)"
                )


if __name__ == "__main__":
    main()
