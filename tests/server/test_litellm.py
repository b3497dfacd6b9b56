"""LiteLLM as a client, as a router in front, and with the plug-in of ``examples`` (extra ``[litellm]``)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upstream import Upstream

CALLS = Path(__file__).with_name("litellm_calls.py")
PLUGIN = Path(__file__).parents[2] / "examples" / "litellm_plugin.py"
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}


@pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason='pip install "edgeroute[litellm]"')
def test_litellm_before_and_beside_edgeroute(
    start: Callable[..., Any], strong: Upstream, weak: Upstream, base_bundle: Path
) -> None:
    arguments = [start().url, strong.url, weak.url, str(base_bundle), str(PLUGIN)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(CALLS), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | OFFLINE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["client"] == ["Lima is the capital."] * 2
    assert found["router"] == "Lima is the capital."
    assert found["plug-in"] == {"1.0": ["strong"] * 2, "0.0": ["weak"] * 2}
    assert [each.body["model"] for each in strong.asked] == ["big-model", "big-model", "strong", "strong"]
    assert [each.body["model"] for each in weak.asked] == ["small-model", "weak", "weak"]
