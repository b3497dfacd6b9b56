"""The prompts that come with the package, and what is measured on them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from edgeroute.evaluation.evaluate import length_scores
from edgeroute.evaluation.metrics import auc
from edgeroute.evaluation.probes import LANGUAGES, count, languages, probe, reworded, short_long
from edgeroute.evaluation.rewordings import AFFIXES, REWORDINGS


def test_progress_counts_every_prompt_that_is_scored() -> None:
    told: list[int] = []
    probe("length", length_scores, 5, told.append)
    assert told == sorted(told)
    assert told[-1] == count()


def test_hard_prompts_are_short_and_easy_work_is_long() -> None:
    pairs = short_long()
    lengths = np.array([len(prompt) for prompt in pairs.prompts])
    demanding = np.array(pairs.demanding)
    assert (demanding.sum(), (~demanding).sum()) == (100, 100)
    assert len(set(pairs.prompts)) == 200
    assert lengths[demanding].max() < lengths[~demanding].min()


@pytest.mark.parametrize("name", LANGUAGES)
def test_in_no_language_does_length_tell_hard_from_easy(name: str) -> None:
    found = languages()[name]
    assert sum(found.demanding) == len(found.demanding) - sum(found.demanding) == 20
    assert len(set(found.prompts)) == 40
    assert 0.4 < auc([len(prompt) for prompt in found.prompts], found.demanding) < 0.6


def test_length_is_no_router() -> None:
    found = probe("length", length_scores, rounds=20)
    assert (found.router, found.short_long.value) == ("length", 0)
    assert 0.4 < found.languages.value < 0.6
    assert found.stability.n == len(reworded()) == len(set(reworded()))
    assert found.stability.rewordings.keys() == REWORDINGS.keys()
    assert found.stability.affixes.keys() == AFFIXES.keys()
    assert found.stability.rewordings["lower_case"] == {"0.25": 0, "0.5": 0, "0.75": 0}
    assert found.stability.worst_affix()[1] > 0.4  # 400 characters more are all that it sees


def test_what_cannot_be_read_is_counted_and_has_no_auc_where_it_prevails() -> None:
    def knows_latin(prompts: Sequence[str]) -> np.ndarray:
        pairs = (zip(each.prompts, each.demanding, strict=True) for each in languages().values())
        known = {prompt: float(hard) for prompt, hard in itertools.chain(*pairs)}
        return np.array([known.get(each, 0.5) if each.isascii() else np.nan for each in prompts])

    found = probe("ascii", knows_latin, rounds=20).by_language
    assert (found["en"].auc, found["en"].unread) == (1, 0)
    assert (found["ko"].auc, found["ko"].unread) == (None, 1)
    assert 0 < found["it"].unread < 0.5
    assert found["it"].auc is not None
    assert found["it"].auc < 1  # an easy prompt that it cannot read goes to the strong model
