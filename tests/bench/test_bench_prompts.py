"""The benchmark's mix: lengths as they were counted, words of our own, the same prompts for the same seed."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgeroute import Router
from edgeroute.bench.bench import CHARACTERS, LENGTHS
from edgeroute.bench.prompts import PIECES, SPECIAL, load_mix, mixed_prompts, prompt_of, text_of, write
from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.store import shipped_folder, shipped_index
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import EdgeRouteError, PromptError

BUNDLES = ("mf-small", "nano")
STRANGE = {"accents", "script"}
"""Kinds that nano's tokenizer, which keeps accents and knows none, splits in another way: .4% of the mix."""


@pytest.fixture(scope="module", params=BUNDLES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found = Tokenizer.from_file(str(shipped_folder() / request.param / "tokenizer.json"))
    found.no_truncation()
    found.no_padding()
    return found


@pytest.fixture(scope="module")
def kinds(tokenizer: Tokenizer) -> set[str]:
    return set(PIECES) - (STRANGE if "[UNK]" in tokenizer.encode("está").tokens else set())


def tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text).ids)


def test_pieces_have_the_token_counts_they_stand_under(tokenizer: Tokenizer, kinds: set[str]) -> None:
    wrong = [
        (kind, size, word)
        for kind in kinds
        for size, words in PIECES[kind].items()
        for word in words.split()
        if tokens(tokenizer, word) != size + SPECIAL
    ]
    assert wrong == []


def test_the_token_counts_are_distributed_as_those_counted(tokenizer: Tokenizer) -> None:
    """Kolmogorov-Smirnov, at the histogram's edges: 4,000 right draws stay below .031 (p = .001)."""
    mix = load_mix()
    lengths = [tokens(tokenizer, str(prompt)) for prompt in mixed_prompts(4000, seed=3, chats=False)]
    found = np.cumsum(np.histogram(lengths, mix.edges)[0]) / len(lengths)
    wanted = np.cumsum(mix.counts) / sum(mix.counts)
    assert np.abs(found - wanted).max() < 0.031


def test_characters_per_token_are_those_counted(tokenizer: Tokenizer, kinds: set[str]) -> None:
    for kind in load_mix().kinds:
        if kind.name not in kinds or kind.name == "script":  # five prompts were counted: no habit to follow
            continue
        rng = random.Random(0)
        texts = [write(kind, 60, rng) for _ in range(50)]
        ratio = statistics.median(len(text) / tokens(tokenizer, text) for text in texts)
        assert ratio == pytest.approx(kind.characters_per_token, rel=0.15), kind.name


def test_a_prompt_has_the_tokens_asked_for(tokenizer: Tokenizer) -> None:
    for wanted in (3, 8, 17, 64, 512):
        assert tokens(tokenizer, prompt_of(wanted, seed=wanted)) == wanted
    assert tokens(tokenizer, prompt_of(1)) == SPECIAL + 1


def test_a_text_has_the_characters_asked_for() -> None:
    assert [len(text_of(n)) for n in (1, 999, 10_000, 1_000_000)] == [1, 999, 10_000, 1_000_000]
    assert text_of(0)


def test_the_same_seed_gives_the_same_prompts() -> None:
    assert mixed_prompts(50, seed=1) == mixed_prompts(50, seed=1)
    assert mixed_prompts(50, seed=1) != mixed_prompts(50, seed=2)
    assert prompt_of(64, seed=1) != prompt_of(64, seed=2)


def test_some_prompts_are_chats_with_as_many_turns_as_were_counted() -> None:
    mix = load_mix()
    found = [1 if isinstance(each, str) else len(each) // 2 + 1 for each in mixed_prompts(4000)]
    shares = np.bincount(found, minlength=len(mix.turns) + 1)[1:] / len(found)
    assert shares == pytest.approx(np.array(mix.turns) / sum(mix.turns), abs=0.02)
    assert all(isinstance(each, str) for each in mixed_prompts(100, chats=False))


def test_every_prompt_is_scored(router: Router) -> None:
    prompts = mixed_prompts(200, seed=5)
    assert len(router.score_batch(prompts)) == 200


def reader_of(name: str) -> TextEncoder:
    bundle = open_bundle(shipped_folder() / name)
    assert bundle.manifest.text is not None
    return TextEncoder(bundle.read("tokenizer.json")["tokenizer.json"], bundle.manifest.text)


@pytest.mark.parametrize("name", sorted(shipped_index()["bundles"]))
def test_every_bundle_reads_every_prompt_that_it_is_timed_on(name: str) -> None:
    reader = reader_of(name)
    prompts = mixed_prompts(2000, readers=[reader])
    assert len(prompts) == 2000
    for prompt in [*prompts, *(prompt_of(n) for n in LENGTHS), *(text_of(n) for n in (1, *CHARACTERS))]:
        reader.encode(prompt)


def test_a_prompt_that_a_bundle_refuses_is_replaced_and_the_others_stay() -> None:
    reader = reader_of("nano")
    drawn, read = mixed_prompts(2010), mixed_prompts(2000, readers=[reader])
    refused = [prompt for prompt in drawn if prompt not in read]
    assert 0 < len(refused) < 20
    with pytest.raises(PromptError, match="knows too little"):
        reader.encode(refused[0])


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(EdgeRouteError, match="at least 1, found 0"):
        mixed_prompts(0)


def test_the_histogram_is_what_the_script_counts() -> None:
    labels = Path(__file__).parents[3] / "shared" / "data"
    if not (labels / "battles_arena.jsonl.gz").exists():
        pytest.skip("needs the label files, which are not in this repository")
    from latency_scripts import load_script

    script = load_script("mix")
    found, mix = script.count(labels), load_mix()
    assert (tuple(found["edges"]), tuple(found["turns"])) == (mix.edges, mix.turns)
    assert {name: tuple(each["counts"]) for name, each in found["kinds"].items()} == {
        kind.name: kind.counts for kind in mix.kinds
    }


def test_the_histogram_holds_numbers_and_names_alone() -> None:
    """Nothing of the prompts that were counted can be in it: no text but the names of kinds and the source."""
    text = (Path(__file__).parents[2] / "edgeroute" / "bench" / "mix.json").read_text(encoding="utf-8")
    words = {word.strip('":,') for word in text.split() if word.strip('":,').isalpha()}
    assert len(words) < 40
