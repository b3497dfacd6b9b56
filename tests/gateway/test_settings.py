"""The operator's TOML: every wrong value is named by the path of its key, and nothing secret is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeroute.errors import ConfigError
from edgeroute.gateway.config import read_settings
from edgeroute.gateway.settings import Settings

GOOD = """\
# an operator's file
strong_share = 0.4
strong = ["big"]
weak = [
    "small",   # first
    "big",
]

[endpoints.big]
url = "https://api.openai.com/v1"
model = "gpt"
api_key_env = "BIG_KEY"
usd_per_1m_input = 2.5
usd_per_1m_output = 10

[endpoints."small.one"]
url = "http://127.0.0.1:11434/v1"
model = "llama"

[endpoints.small]
url = "http://localhost:11434/v1"
model = "llama"

[[rules]]
target = "strong"
tools = true

[[rules]]
target = "weak"
pattern = "(?i)hello"
"""
ENVIRONMENT = {"BIG_KEY": "sk-heliotrope"}


def read(folder: Path, text: str, environment: dict[str, str] | None = None) -> Settings:
    path = folder / "edgeroute.toml"
    path.write_text(text)
    return read_settings(path, ENVIRONMENT if environment is None else environment)[0]


def problems(folder: Path, text: str, environment: dict[str, str] | None = None) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, environment)
    assert "heliotrope" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_a_good_file_is_read(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD)
    assert settings.targets == {"weak": ("small", "big"), "strong": ("big",)}
    assert (settings.strong_share, settings.on_error, settings.rules[0].tools) == (0.4, "strong", True)


CASES = {
    'url = "https://api.openai.com/v1"|url = 7': "edgeroute.toml: endpoints.big.url: expected str, found 7",
    'model = "gpt"|modell = "gpt"': "edgeroute.toml: endpoints.big.modell: no such key; did you mean model?",
    'strong_share = 0.4|strong_share = "0.4"': 'edgeroute.toml: strong_share: expected float, found "0.4"',
    "strong_share = 0.4|strong_share = 1.4": "edgeroute.toml: strong_share: expected a number from 0 to 1",
    "strong_share = 0.4|strong_share = nan": "edgeroute.toml: strong_share: expected a finite number",
    "strong_share = 0.4|strong_share = 2026-01-01": (
        'edgeroute.toml: strong_share: expected float, found "2026-01-01"'
    ),
    '    "small",|    "smal",': "edgeroute.toml: weak: no endpoint is named 'smal'; there are big, small.one, small",
    '    "big",|    "small",': "edgeroute.toml: weak: the endpoint 'small' appears twice",
    'strong = ["big"]|strong = []': "edgeroute.toml: strong: expected at least one endpoint, in fallback order",
    'model = "llama"\n\n[endpoints.small]|models = "llama"\n\n[endpoints.small]': (
        "edgeroute.toml: endpoints.small.one.models: no such key; did you mean model?"
    ),
    'target = "weak"|target = "week"': "edgeroute.toml: rules[1].target: expected one of strong, weak, found 'week'",
    'pattern = "(?i)hello"|pattern = "(hello"': (
        "edgeroute.toml: rules[1].pattern: not a regular expression: missing ), unterminated subpattern at position 0"
    ),
    'pattern = "(?i)hello"|': "edgeroute.toml: rules[1]: expected tools = true, images = true or a pattern",
    "http://localhost:11434/v1|http://example.com/v1": (
        "edgeroute.toml: endpoints.small.url: plain http is for loopback addresses: use https, or set "
        "allow_insecure = true"
    ),
    "usd_per_1m_output = 10|usd_per_1m_output = -1": (
        "edgeroute.toml: endpoints.big.usd_per_1m_output: expected a price of 0 or more"
    ),
    "usd_per_1m_output = 10|": (
        "edgeroute.toml: endpoints.big.usd_per_1m_input: expected both prices, "
        "usd_per_1m_input and usd_per_1m_output, or none"
    ),
    "strong_share = 0.4|daily_budget_usd = 3": (
        "edgeroute.toml: endpoints.small.one: a daily budget needs prices: set usd_per_1m_input and usd_per_1m_output"
    ),
    'api_key_env = "BIG_KEY"|api_key_env = "sk-heliotrope"': (
        "edgeroute.toml: endpoints.big.api_key_env: expected the name of an environment variable, not the key itself"
    ),
    'api_key_env = "BIG_KEY"|api_key = "sk-heliotrope"': (
        "edgeroute.toml: endpoints.big.api_key: no such key; did you mean api_key_env?"
    ),
    'api_key_env = "BIG_KEY"|api_key_env = "NO_KEY"': (
        "edgeroute.toml: endpoints.big.api_key_env: the environment variable NO_KEY is not set"
    ),
    "https://api|https://sk-heliotrope:x@api": (
        "edgeroute.toml: endpoints.big.url: expected no user or password in the URL: name the key's variable with "
        "api_key_env"
    ),
    "strong_share = 0.4|strong_share = 0.4\nthreshold = 0.3": (
        "edgeroute.toml: threshold: expected strong_share or threshold, not both"
    ),
    'api_key_env = "BIG_KEY"|timeout_s = 0': "edgeroute.toml: endpoints.big.timeout_s: expected a number above 0",
    'api_key_env = "BIG_KEY"|headers_env = { host = "A" }': (
        "edgeroute.toml: endpoints.big.headers_env: expected names of headers that edgeroute does not set itself"
    ),
}


@pytest.mark.parametrize("change", CASES)
def test_a_wrong_value_is_named_by_its_key(change: str, tmp_path: Path) -> None:
    old, _, new = change.partition("|")
    assert old in GOOD
    assert CASES[change] in problems(tmp_path, GOOD.replace(old, new, 1))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("0.4", "4").replace('model = "gpt"', 'model = ""').replace("tools = true", "")
    assert [each.split(": ")[1] for each in problems(tmp_path, text)] == [
        "endpoints.big.model",
        "rules[0]",
        "strong_share",
    ]


def test_a_misspelt_key_hides_no_other_mistake(tmp_path: Path) -> None:
    text = GOOD.replace("strong_share = 0.4", "strong_shar = 0.4\non_error = 7").replace('"(?i)hello"', '"(hello"')
    text = (
        text.replace('model = "gpt"', 'modell = "gpt"').replace('    "big",', '    "bigg",').replace("= 10", '= "10"')
    )
    assert problems(tmp_path, text, {}) == [
        "edgeroute.toml: endpoints.big: the key 'model' is missing",
        "edgeroute.toml: endpoints.big.api_key_env: the environment variable BIG_KEY is not set",
        "edgeroute.toml: endpoints.big.modell: no such key; did you mean model?",
        'edgeroute.toml: endpoints.big.usd_per_1m_output: expected float, found "10"',
        "edgeroute.toml: on_error: expected one of strong, weak, raise, found 7",
        "edgeroute.toml: rules[1].pattern: not a regular expression: missing ), unterminated subpattern at position 0",
        "edgeroute.toml: strong_shar: no such key; did you mean strong_share?",
        "edgeroute.toml: weak: no endpoint is named 'bigg'; there are big, small.one, small",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("[endpoints.big]|[endpoint.big]", 1),
        ('strong = ["big"]|stong = ["big"]', 1),
        ('weak = [|weak = "big"\nwea = [', 2),
        ('url = "https://api.openai.com/v1"|', 1),
        ("tools = true|tool = true", 1),
        ("tools = true|tools = 1", 1),
        ('strong_share = 0.4|daily_budget_usd = true\nbudget_file = "b"', 1),
    ],
)
def test_what_only_follows_from_a_misspelt_key_is_not_told(change: str, told: int, tmp_path: Path) -> None:
    old, _, new = change.partition("|")
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    assert len(found) == told, found


def test_two_endpoints_of_one_name_are_refused(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, GOOD.replace("endpoints.small]", "endpoints.big]"))
    assert "not TOML" in told
    assert "line 20" in told


@pytest.mark.parametrize("key", ["sk-helio\ntrope: x", "schl\u00fcssel", "a\x00b"])
def test_a_key_that_would_break_the_headers_is_refused(key: str, tmp_path: Path) -> None:
    (told,) = problems(tmp_path, GOOD, {"BIG_KEY": key})
    assert told.startswith(
        "edgeroute.toml: endpoints.big.api_key_env: the environment variable BIG_KEY holds a character"
    )
    assert key not in told


@pytest.mark.parametrize("text", ["", "[endpoints]", "endpoints = 3", "strong = ["])
def test_an_empty_file_says_what_is_missing(text: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_settings(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_settings(tmp_path / "none.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(ConfigError, match=r"latin.toml:2: not UTF-8"):
        read_settings(path)


TIERS = """
endpoints.a = { url = "https://a/v1", model = "m" }
endpoints.b = { url = "https://b/v1", model = "m" }
[[tiers]]
name = "low"
endpoints = ["a"]
below = 0.3
[[tiers]]
name = "high"
endpoints = ["b", "a"]
"""


def test_tiers_are_targets_from_cheap_to_strong(tmp_path: Path) -> None:
    assert list(read(tmp_path, TIERS).targets) == ["low", "high"]
    assert read(tmp_path, TIERS.replace("below = 0.3", "share = 0.7")).tiers[0].share == 0.7


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("below = 0.3", ""),
        ("below = 0.3", "below = 1.5"),
        ("below = 0.3", "share = 1.5"),
        ("below = 0.3", "share = 0.3\nbelow = 0.3"),
        ('"high"', '"low"'),
        ('["b", "a"]', '["b", "a"]\nbelow = 0.9'),
    ],
)
def test_bands_that_do_not_part_the_scores_are_refused(old: str, new: str, tmp_path: Path) -> None:
    assert problems(tmp_path, TIERS.replace(old, new))[0].startswith("edgeroute.toml: tiers: ")


def test_one_way_to_choose(tmp_path: Path) -> None:
    assert "expected one way to choose" in problems(tmp_path, 'strong = ["a"]\n' + TIERS)[0]


def test_a_misspelt_key_in_a_large_file_is_told_at_once(tmp_path: Path) -> None:
    """The key's path is printed; its line was once searched for, 36 s in a file of 69 KB."""
    rules = '[[rules]]\ntarget = "strong"\npattern = """a\nb"""\n' * 1300
    assert problems(tmp_path, f"stong = []\n{GOOD}{rules}") == [
        "edgeroute.toml: stong: no such key; did you mean strong?"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("tools", "tool"), "rules[0].tool: no such key; did you mean tools?"),
        (GOOD + "\n[serve]\ndecision_logs = 1", "serve.decision_logs: no such key; did you mean decision_log?"),
        (GOOD + "\nsticky = true", "rules[1].sticky: no such key here; it belongs above the first [table]"),
        (GOOD + "\n[server]\n", "server: no such key; did you mean serve?"),
        ("q = 1\n" + GOOD, "q: no such key"),
    ],
)
def test_an_unknown_key_says_what_may_have_been_meant(text: str, told: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text)[0] == f"edgeroute.toml: {told}"


RANK = """
endpoints.a = { url = "https://a/v1", model = "m", usd_per_1m_input = 1, usd_per_1m_output = 1 }
endpoints.b = { url = "https://b/v1", model = "m" }
[rank]
margin = 0.7
[rank.models]
one = ["b"]
"""


def test_ranks_are_checked(tmp_path: Path) -> None:
    assert problems(tmp_path, RANK) == [
        "edgeroute.toml: rank.margin: expected a difference of win rates from 0 to 0.5",
        "edgeroute.toml: rank.models: expected at least two models",
        "edgeroute.toml: rank.models.one: the endpoint 'b' needs prices: rank takes the cheapest",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("deadline_s = 0", "deadline_s: expected a number above 0"),
        ('budget_file = "x"', "budget_file: is for daily_budget_usd, which is not set"),
        ("serve = { max_queue = -1 }", "serve.max_queue: expected 0 or more"),
        ("serve = { max_body_mb = 0 }", "serve.max_body_mb: expected a number above 0"),
        (
            'serve = { embeddings = ["x"] }',
            "serve.embeddings: no endpoint is named 'x'; there are big, small.one, small",
        ),
        ("serve = { log_prompts = true }", "serve.log_prompts: is for decision_log, which is not set"),
        ("serve = { port = 1 }", "serve.port: no such key"),
        ('serve = { decision_log = "a\\u0000" }', "serve.decision_log: expected a path without NUL"),
        ('calibration = "\\u0000"', "calibration: expected a path without NUL"),
        ('bundle = "\\u0000"', "bundle: expected a path without NUL"),
    ],
)
def test_limits_and_the_servers_keys_are_checked(line: str, told: str, tmp_path: Path) -> None:
    assert problems(tmp_path, f"{line}\n{GOOD}") == [f"edgeroute.toml: {told}"]


def test_shares_are_for_the_two_lists(tmp_path: Path) -> None:
    assert "strong_share: is for the lists strong and weak" in problems(tmp_path, f"strong_share = 0.5\n{TIERS}")[0]
    assert "expected at least one endpoint" in "".join(
        problems(tmp_path, 'strong = ["a"]\nweak = ["a"]\nendpoints = {}')
    )
    assert "nested too deep" in problems(tmp_path, "a = " + "[" * 5000)[0]


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    assert "more than 256 KB" in problems(tmp_path, "#" * 300_000)[0]
