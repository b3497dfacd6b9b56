"""Models of the Hugging Face hub: asked for once where the hub is out of reach, in place of its client's retries."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import requests

TIMEOUT_S = 5.0
HINT = (
    "it is no local folder, the hub is out of reach, and the hub's cache on this machine lacks it: download it where "
    "there is a network (hf download NAME --local-dir FOLDER) and give the folder"
)


def hub_options(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments for ``from_pretrained``: where the hub is out of reach, only what its cache holds is looked at.

    From then on transformers writes nothing of its own between our lines.
    """
    _quiet_transformers()
    return {"local_files_only": True} if not Path(source).exists() and not reachable() else {}


def why(source: str | os.PathLike[str], error: Exception) -> str:
    """What to say of a model that does not load: what to do offline, else the error's first words."""
    if hub_options(source):
        return HINT
    return " ".join(str(error).split())[:300] or type(error).__name__


@functools.cache
def _quiet_transformers() -> None:
    """No bar for each model that is read ("Loading weights"), no advice to train a new head; downloads keep theirs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    disabled = are_progress_bars_disabled()
    logging.disable_progress_bar()
    if not disabled:
        enable_progress_bars()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()


@functools.cache
def reachable() -> bool:
    """Whether the hub answers; asked once a process, since its client would try for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.RequestException:
        return False
    return True
