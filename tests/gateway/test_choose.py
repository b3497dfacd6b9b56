"""Rules, budget, tiers, ranks and stickiness: who is chosen, and the reason told."""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import reseal
from upstream import Upstream

from edgeroute.errors import (
    BackendError,
    BackendWarning,
    BudgetError,
    BundleError,
    BundleNotFoundError,
    CalibrationError,
    CalibrationWarning,
    ConfigError,
)
from edgeroute.gateway.budget import Budget
from edgeroute.gateway.gateway import Gateway
from edgeroute.router import Router

Load = Callable[..., Gateway]
TEXT = "write a poem"
IMAGE = [
    {"role": "user", "content": [{"type": "text", "text": TEXT}, {"type": "image_url", "image_url": {"url": "x"}}]}
]
ALWAYS_WEAK = "strong_share = 0.0"


def test_the_decision_is_the_routers(load: Load, router: Router, base_bundle: Path) -> None:
    for share in (0.1, 0.5, 0.9):
        gateway = load(f"strong_share = {share}")
        for prompt in ("hello", TEXT, "Prove that there are infinitely many primes."):
            decision, choice = router.choose(prompt, strong_share=share), gateway.choose(prompt)
            assert (choice.target, choice.score, choice.threshold) == (
                *(decision.target, decision.score, decision.threshold),
            )
            assert choice.strong_share == pytest.approx(share)
            sign = ">=" if choice.target == "strong" else "<"
            assert choice.reason == f"score {decision.score:.4f} {sign} {decision.threshold:.4f}"


@pytest.mark.parametrize("text", ['target = "strong"\ntools = true', 'target = "strong"\nimages = true'])
def test_tools_and_images_by_rule(load: Load, text: str) -> None:
    gateway = load(ALWAYS_WEAK, f"[[rules]]\n{text}")
    kind = text.rpartition("\n")[2].partition(" ")[0]
    assert gateway.choose(TEXT).target == "weak"
    called = gateway.choose(TEXT, tools=[{"type": "function"}]) if kind == "tools" else gateway.choose(IMAGE)
    assert (called.target, called.reason, called.score) == ("strong", f"rule 1: {kind}", None)


def test_a_pattern_by_rule_and_the_first_rule_wins(load: Load) -> None:
    rules = '[[rules]]\ntarget = "strong"\npattern = "(?i)POEM"\n[[rules]]\ntarget = "weak"\npattern = "write"'
    gateway = load("strong_share = 1.0", rules)
    assert gateway.choose(TEXT).reason == "rule 1: a pattern"
    assert gateway.choose("write code").target == "weak"
    assert gateway.choose([{"role": "system", "content": "poem"}, {"role": "user", "content": "x"}]).target == "strong"


def test_a_pattern_sees_no_more_than_a_bounded_text(load: Load) -> None:
    gateway = load(ALWAYS_WEAK, '[[rules]]\ntarget = "strong"\npattern = "zzz$"')
    assert gateway.choose("a " * 50_000 + "zzz").target == "weak"


def test_the_caller_may_name_a_target_or_a_share(load: Load) -> None:
    gateway = load(ALWAYS_WEAK)
    assert gateway.choose(TEXT, target="strong").reason == "requested by the caller"
    assert gateway.choose(TEXT, strong_share=1).target == "strong"
    assert gateway.choose(TEXT, threshold=0).target == "strong"
    with pytest.raises(CalibrationError, match="expected a target of weak, strong, found 'mid'"):
        gateway.choose(TEXT, target="mid")


def test_a_conversation_keeps_its_first_choice(load: Load, router: Router) -> None:
    first, last = sorted(["hello", "Prove that there are infinitely many primes."], key=router.score)
    middle = (router.score(first) + router.score(last)) / 2
    chat = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": last},
    ]
    assert load(f"threshold = {middle}").choose(chat).target == "strong"
    assert load(f"threshold = {middle}\nsticky = true").choose(chat).target == "weak"


def three(below: tuple[float, float]) -> str:
    bands = [("low", f"below = {below[0]}"), ("mid", f"below = {below[1]}"), ("high", "")]
    return "\n".join(f'[[tiers]]\nname = "{name}"\nendpoints = ["small"]\n{limit}' for name, limit in bands)


@pytest.mark.filterwarnings("ignore:tier")
@pytest.mark.parametrize(("below", "name"), [((0.01, 0.02), "high"), ((0.01, 0.99), "mid"), ((0.98, 0.99), "low")])
def test_score_bands(load: Load, below: tuple[float, float], name: str) -> None:
    assert load("", three(below), lists="").choose("hello").target == name


def test_a_score_that_separates_no_prompts_is_a_warning(load: Load, router: Router) -> None:
    low, high = (router.threshold(strong_share=share)[0] for share in (0.6, 0.3))
    load("", three((low, high)), lists="")  # warnings are errors
    with pytest.warns(CalibrationWarning, match=r"tier low is never reached: 0% of the calibration prompts of tiny"):
        load("", three((0.0001, high)), lists="")
    with pytest.warns(CalibrationWarning, match=r"tier high is never reached: .* score from 0.9999 on"):
        load("", three((low, 0.9999)), lists="")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load("", three((0.9998, 0.9999)), lists="")
    assert [str(each.message).partition(" is never")[0] for each in told] == ["tier mid", "tier high"]


@pytest.mark.filterwarnings("ignore:tier")
def test_a_score_on_an_edge_belongs_above_it(load: Load, router: Router) -> None:
    score = router.score("hello")
    assert load("", three((score, 0.99)), lists="").choose("hello").target == "mid"


def test_shares_of_tiers_are_shares_of_traffic(load: Load, router: Router) -> None:
    tiers = three((0.1, 0.2)).replace("below = 0.1", "share = 0.5").replace("below = 0.2", "share = 0.3")
    gateway = load("", tiers, lists="")
    edges = [router.threshold(strong_share=share)[0] for share in (0.5, 0.2)]
    assert gateway._chooser._edges == pytest.approx(edges)


RANK = '[rank]\nmargin = {margin}\n[rank.models]\nbig-model = ["big"]\nsmall-model = ["small"]'


def test_rank_takes_the_cheapest_within_the_margin(load: Load, ranking_bundle: Path) -> None:
    bundled = Router.load(ranking_bundle)
    for prompt in ("hello", TEXT, "Prove that there are infinitely many primes."):
        rate = bundled.rank(prompt).win_rate("small-model", "big-model")
        for margin in (0.0, 0.5):
            choice = load("", RANK.format(margin=margin), lists="", bundle=ranking_bundle).choose(prompt)
            assert choice.target == ("small-model" if rate >= 0.5 - margin else "big-model")
    assert choice.endpoints == ("small",)


def test_rank_refuses_models_that_the_bundle_does_not_know(load: Load, ranking_bundle: Path, base_bundle: Path) -> None:
    with pytest.raises(BundleError, match="does not rank the model 'smal-model'"):
        load("", RANK.format(margin=0).replace("small-model", "smal-model"), lists="", bundle=ranking_bundle)
    with pytest.raises(BundleError, match="does not rank models"):
        load("", RANK.format(margin=0), lists="")


def test_a_budget_that_is_spent_means_the_weak_model(load: Load, strong: Upstream, weak: Upstream) -> None:
    gateway = load("strong_share = 1.0\ndaily_budget_usd = 0.0002")
    assert gateway.complete(TEXT).endpoint == "big"  # $0.00021
    choice = gateway.choose(TEXT, target="strong")
    assert (choice.target, choice.endpoints) == ("weak", ("small",))  # big is in its fallback order, and is left out
    assert choice.reason == "the daily budget of $0.0002 is spent"


def test_no_cheaper_endpoint_is_an_error(load: Load) -> None:
    gateway = load("daily_budget_usd = 0.0001", lists='strong = ["big"]\nweak = ["big"]')
    gateway.complete(TEXT)
    with pytest.raises(BudgetError, match="is spent, and weak shares all its endpoints"):
        gateway.choose(TEXT)


def test_streams_are_paid_for_as_well(load: Load) -> None:
    gateway = load("strong_share = 1.0\ndaily_budget_usd = 0.0001")
    list(gateway.stream(TEXT))
    assert gateway.choose(TEXT).target == "weak"


def test_a_budget_file_is_shared_and_outlives_the_process(tmp_path: Path) -> None:
    path, days = tmp_path / "spent.jsonl", ["2026-01-01"]
    one, two = (Budget(1.0, path, day=lambda: days[0]) for _ in range(2))
    one.spend(0.4)
    two.spend(0.35)
    assert one.spent() == two.spent() == Budget(1.0, path, day=lambda: days[0]).spent() == pytest.approx(0.75)
    assert not one.exhausted
    one.spend(0.3)
    assert two.exhausted
    days[0] = "2026-01-02"
    assert (one.spent(), two.exhausted) == (0, False)
    assert path.stat().st_mode & 0o077 == 0


def test_a_budget_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        Budget(1.0, tmp_path)


@pytest.mark.parametrize("usd", ["NaN", "Infinity", "-1", "1e999", "1" + "0" * 400, '"x"'])
def test_a_sum_that_is_none_lifts_no_cap(usd: str, tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    budget = Budget(1.0, path, day=lambda: "d")
    budget.spend(2)
    with path.open("a") as file:
        file.write(f'{{"day": "d", "usd": {usd}}}\n')
    for each in (budget, Budget(1.0, path, day=lambda: "d")):
        assert each.exhausted
        assert (each.spent(), each.skipped) == (2, 1)


@pytest.mark.parametrize(
    "rotate", [lambda path: path.rename(path.with_suffix(".old")), lambda path: path.write_text("")]
)
def test_a_budget_file_that_is_rotated_lifts_no_cap(rotate: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    budget = Budget(1.0, path)
    for _ in range(3):
        budget.spend(0.25)
    assert budget.spent() == 0.75
    rotate(path)
    assert budget.spent() == 0.75
    Budget(1.0, path).spend(0.25)
    assert budget.exhausted


def test_a_day_is_one_of_utc(tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    Budget(1.0, path).spend(0.5)
    assert json.loads(path.read_text())["day"] == datetime.datetime.now(datetime.UTC).date().isoformat()


def test_the_price_decides_the_order_of_ranked_models(load: Load, ranking_bundle: Path) -> None:
    gateway = load("", RANK.format(margin=0.5), lists="", bundle=ranking_bundle)
    assert list(gateway.settings.targets) == ["small-model", "big-model"]


def test_the_best_ranked_model_is_declared_or_what_the_bundle_shows_never_the_most_expensive(
    load: Load, ranking_bundle: Path
) -> None:
    bundled = Router.load(ranking_bundle)
    golden = [each.prompt for each in bundled.graph.golden.scores]
    rate = sum(bundled.rank(each).win_rate("big-model", "small-model") for each in golden) / len(golden)
    shown = load("", RANK.format(margin=0.5), lists="", bundle=ranking_bundle)
    assert shown.strongest == ("big-model" if rate > 0.5 else "small-model")
    for name in ("big-model", "small-model"):
        text = RANK.format(margin=0.5).replace("[rank]", f'[rank]\nstrongest = "{name}"')
        gateway = load("", text, lists="", bundle=ranking_bundle)
        assert (gateway.strongest, gateway.choose(TEXT, target="strong").target) == (name, name)
        assert gateway.choose(TEXT, target="weak").target == "small-model"  # the cheapest


def test_options_do_not_reach_the_endpoint(load: Load, strong: Upstream) -> None:
    load().complete(TEXT, threshold=0.0, user="me")
    body: dict[str, Any] = strong.asked[0].body
    assert body == {"model": "big-model", "messages": [{"role": "user", "content": TEXT}], "user": "me"}


def test_a_deadline_for_scoring_goes_to_the_router(load: Load, bundle: Path) -> None:
    nowhere = {"name": "cheap", "digest": "sha256:" + "1" * 64}
    reseal(bundle, lambda manifest: manifest.update(fallback=nowhere))
    load(bundle=str(bundle))
    with pytest.raises(BundleNotFoundError, match="a deadline needs the fallback cheap"):  # before anything is timed
        load("score_deadline_ms = 10", bundle=str(bundle))


def test_scores_come_from_the_server_that_the_file_names(load: Load) -> None:
    pytest.importorskip("tritonclient.grpc")
    with pytest.warns(BackendWarning, match="does not answer"):
        gateway = load('backend = "triton://127.0.0.1:1/tiny"')
    assert gateway.choose(TEXT).score is not None  # the local graph in its place
    with pytest.raises(BackendError, match="expected a backend such as triton://"):
        load('backend = "tiny"')
