"""Golden prompts: scored at export, replayed by ``verify`` and, the first two, at every load.

Written for this purpose. They cover short and long, prose, code, numbers and other scripts, so that a changed CPU path,
tokenizer or library shows.
"""

from __future__ import annotations

GOLDEN_PROMPTS = (
    "Which river flows through Cologne?",
    "Show that every graph with more edges than vertices minus one contains a cycle, then give the tight bound.",
    "hi",
    "Rewrite this more politely: send me the numbers by noon or forget the deal.",
    "def halve(xs): return [x / 2 for x in xs]\nWhy does halve('ab') fail, and how would you type-check it?",
    "A tank fills at 3.5 litres a minute and leaks 0.75; it holds 120. After how many minutes is it two thirds full?",
    "Übersetze ins Französische: Der Zug fährt heute zehn Minuten später ab.",
    "用一句话解释什么是光合作用。",
    "Which of these is an odd number?\nA. 4\nB. 9\nC. 12\nD. 20\nAnswer:",
    "List three names for a bakery 🥐 by the sea.",
    "Compare optimistic and pessimistic locking for a seat-booking service with 2,000 writes a second: say which you "
    "would choose, what breaks under retries, and how you would test it. " * 6,
    "Please summarise the minutes. " + "The committee moved the item to the next meeting. " * 60,
)
