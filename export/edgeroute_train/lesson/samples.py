"""The samples that a student sees: labelled prompts, what was written for training, and changed copies of both."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .recipe import Lesson, Mixture
from .rewordings import reword
from .teacher import Pool
from .written import easy_instruction, load_written, passage, word_problem

_REAL_TEXT = 0.5
"""How often a long prompt of people stands for a passage of ours."""
_SHORTEST_SUM, _LONGEST_SUM = 60, 700
"""Characters of the word problems that need least and most."""
_LEAST_SUM, _MOST_SUM = -0.7, 1.3
_SHORT_ASK = 400


@dataclass(frozen=True, slots=True)
class Sample:
    """``need`` is the target; ``exam`` whether the prompt is a multiple-choice question; ``embedded`` whether the
    frozen encoder's embedding of ``text`` is known; ``of`` the place in the batch of what this is a copy of."""

    text: str
    need: float
    exam: bool = False
    embedded: bool = False
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws samples. ``opened`` and ``exams``: pools of labelled prompts by file; ``people``: prompts of people."""

    lesson: Lesson
    opened: Mapping[str, Pool]
    exams: Mapping[str, Pool]
    people: Sequence[str]
    rng: random.Random

    def batch(self, count: int) -> list[Sample]:
        """``count`` samples and, after them, changed copies of some; others are changed in place."""
        training, rng = self.lesson.training, self.rng
        found = [self.draw() for _ in range(count)]
        copies = []
        for i, each in enumerate(found):
            chance = rng.random()
            if chance < training.reworded:
                copies.append(Sample(reword(each.text, rng), each.need, each.exam, of=i))
            elif chance < training.reworded + training.changed:
                found[i] = Sample(reword(each.text, rng), each.need, each.exam)
        return found + copies

    def draw(self) -> Sample:
        """One sample, by the shares of the recipe's mixture."""
        makers: dict[str, Callable[[], Sample]] = {
            "open": self._open,
            "exam": self._exam,
            "easy_on_text": self._easy_on_text,
            "demanding_on_text": self._demanding_on_text,
            "easy": lambda: self._short(easy=True),
            "expert": lambda: self._short(easy=False),
            "languages": self._language,
            "sums": self._sum,
            "follow_ups": self._follow_up,
            "greetings": self._greeting,
        }
        mixture: Mixture = self.lesson.mixture
        name = self.rng.choices(list(makers), [getattr(mixture, each) for each in makers])[0]
        return makers[name]()

    def _pick(self, pools: Mapping[str, Pool]) -> tuple[str, float]:
        pool = self.rng.choices(list(pools.values()), [each.draw for each in pools.values()])[0]
        at = self.rng.randrange(len(pool.prompts))
        return pool.prompts[at], float(pool.target[at])

    def _open(self) -> Sample:
        """An open prompt: mostly as it is, sometimes with an unrelated text or in a conversation, the need the same."""
        text, need = self._pick(self.opened)
        chance = self.rng.random()
        if chance < 0.07 and len(text) < 800:
            wrap = self.rng.choice(load_written().wraps)
            return Sample(wrap.replace("{p}", self._text(150, 1500)).replace("{x}", text), need)
        if chance < 0.13:
            return Sample(self._conversation(text), need)
        return Sample(text, need, embedded=True)

    def _exam(self) -> Sample:
        text, need = self._pick(self.exams)
        return Sample(text, need, exam=True, embedded=True)

    def _easy_on_text(self) -> Sample:
        """An easy instruction over a text of any length."""
        rng, written = self.rng, load_written()
        chance = rng.random()
        instruction = rng.choice(written.easy_instructions) if rng.random() < 0.35 else easy_instruction(rng)
        if chance < 0.15:
            instruction = " ".join(rng.choices(written.easy_instructions, k=2))
        elif chance < 0.25:
            instruction = self._spoken(demanding=False)
        text = self._text(200, 4000) if chance < 0.9 else self._text(40, 200)
        return Sample(self._over(instruction, text), self.lesson.needs.easy_on_text)

    def _demanding_on_text(self) -> Sample:
        rng, written = self.rng, load_written()
        instruction = rng.choice(written.demanding_instructions if rng.random() < 0.7 else written.expert)
        return Sample(self._over(instruction, self._text(150, 2500)), self.lesson.needs.demanding_on_text)

    def _short(self, *, easy: bool) -> Sample:
        rng, written = self.rng, load_written()
        prompts, frames = (written.easy, written.easy_frames) if easy else (written.expert, written.expert_frames)
        framed = rng.random() >= (0.75 if easy else 0.72)
        text = rng.choice(frames).format(t=rng.choice(written.topics)) if framed else rng.choice(prompts)
        needs = self.lesson.needs
        return Sample(self._conversation(text) if rng.random() < 0.1 else text, needs.easy if easy else needs.expert)

    def _language(self) -> Sample:
        demanding = self.rng.random() < 0.5
        return Sample(self._spoken(demanding=demanding), self.lesson.needs.language * (1 if demanding else -1))

    def _spoken(self, *, demanding: bool) -> str:
        languages = load_written().languages
        return languages[self.rng.choice(list(languages))].prompt(self.rng, demanding=demanding)

    def _sum(self) -> Sample:
        """A word problem, all of which is the question: it needs more, the longer it is."""
        text = word_problem(self.rng)
        share = math.log(len(text) / _SHORTEST_SUM) / math.log(_LONGEST_SUM / _SHORTEST_SUM)
        return Sample(text, _LEAST_SUM + (_MOST_SUM - _LEAST_SUM) * min(max(share, 0.0), 1.0))

    def _greeting(self) -> Sample:
        return Sample(self.rng.choice(load_written().greetings), self.lesson.needs.greeting)

    def _follow_up(self) -> Sample:
        """A question and two words after it, which need what it needs."""
        rng, written = self.rng, load_written()
        text, need = self._pick(self.opened)
        if len(text) > _SHORT_ASK:
            demanding = rng.random() < 0.5
            text = rng.choice(written.expert if demanding else written.easy)
            need = self.lesson.needs.expert if demanding else self.lesson.needs.easy
        text = self._conversation(text) if rng.random() < 0.3 else text
        return Sample(f"{text}\n\n{rng.choice(written.follow_ups)}", need)

    def _conversation(self, text: str) -> str:
        """Earlier asks, a blank line between them, the newest last: the form in which conversations are scored."""
        rng, written = self.rng, load_written()
        earlier = []
        for _ in range(rng.randint(1, 3)):
            mine = written.easy if rng.random() < 0.5 else written.expert
            short = [each for each in (rng.choice(self.people) for _ in range(8)) if len(each) < 200]
            earlier.append(short[0] if short and rng.random() < 0.6 else rng.choice(mine))
        return "\n\n".join([*earlier, text])

    def _text(self, least: int, most: int) -> str:
        if self.rng.random() < _REAL_TEXT:
            long = [each for each in (self.rng.choice(self.people) for _ in range(8)) if 300 < len(each) < 6000]
            if long:
                return long[0]
        return passage(self.rng, least, most)

    def _over(self, instruction: str, text: str) -> str:
        """The instruction before, after or, now and then, within the text."""
        rng = self.rng
        chance = rng.random()
        before, after = rng.choice(
            [("\n\n", ""), ("\n", ""), (" ", ""), ("\n\n---\n", ""), ('\n"""\n', '\n"""'), ("\n```\n", "\n```")]
        )
        if chance < 0.68:
            return f"{instruction}{before}{text}{after}"
        if chance < 0.95:
            return f"{text}{rng.choice([chr(10) * 2, chr(10), chr(10) + '---' + chr(10)])}{instruction}"
        middle = max(text.find(" ", len(text) // 2), 0)
        return f"{text[:middle]}\n\n{instruction}\n\n{text[middle:]}"
