"""Does a full-size checkpoint export within 16 GB? Outside CI: it takes minutes, 15 GB of memory and of disk.

    python export/checks/full_size.py xlm-roberta-base|llama-1b PRECISION [--recipe FILE]

makes a random checkpoint of that size with a tokenizer of its own vocabulary, exports it with ``edgeroute export`` in a
process of its own, loads the bundle and scores with it in another, prints what it took and adds it to
``full_size.json``. Random weights decide nothing, so no limits hold; parity is that of generated prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_suffix(".json")
MARKS = [f"[[{mark}]]" for mark in range(1, 6)]
TEMPLATE = "[Question]\n{prompt}\n\nPrediction:"
CHECK_ROWS = 16


def pieces(n: int) -> list[tuple[str, float]]:
    """A Unigram vocabulary of ``n`` pieces with log probabilities: letters, then made-up words, as SentencePiece's."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = dict.fromkeys(["▁", *map(chr, range(33, 127)), *"Üéöäüß"], -8.0)
    for i in range(n):
        word, rest = "", i
        while rest or not word:
            word, rest = word + letters[rest % 26], rest // 26
        found.setdefault("▁" + word, -9.0 - i / n)
        if len(found) >= n:
            break
    return list(found.items())[:n]


def make_tokenizer(vocabulary: int, special: list[str], *, pad: str, unknown: str, extra: dict[str, Any]) -> Any:
    """A SentencePiece-like fast tokenizer of ``vocabulary`` entries."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    entries = [(token, 0.0) for token in special] + pieces(vocabulary - len(special))
    tokenizer = Tokenizer(models.Unigram(entries, unk_id=special.index(unknown), byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    start = special[0]
    after = f" {extra['eos_token']}" if extra.pop("closes", False) else ""
    ids = [(token, i) for i, token in enumerate(special) if token in (start, after.strip())]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A{after}", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, **extra)


def make_classifier(folder: Path) -> list[str]:
    """A random XLM-RoBERTa base of three labels; returns the arguments of its export."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    extra = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "closes": True}
    tokenizer = make_tokenizer(250_002, special, pad="<pad>", unknown="<unk>", extra=extra | {"model_max_length": 512})
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=3072, max_position_embeddings=514, type_vocab_size=1, num_labels=3, pad_token_id=1,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ["bert", str(folder)]


def make_decoder(folder: Path) -> list[str]:
    """A random Llama of a billion parameters, five label tokens appended; returns the arguments of its export."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    special = ["<s>", "</s>", "<unk>"]
    extra = {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 512, "additional_special_tokens": MARKS}
    tokenizer = make_tokenizer(128_000, special, pad="</s>", unknown="<unk>", extra=extra)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=2048, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, intermediate_size=8192, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    template = folder / "template.txt"
    template.write_text(TEMPLATE, encoding="utf-8")
    return ["causal", str(folder), "--template", str(template)]


SIZES = {"xlm-roberta-base": make_classifier, "llama-1b": make_decoder}


def measured(command: list[str]) -> dict[str, float]:
    """Seconds and largest resident memory of a process, in GB (10⁹ bytes), mapped files included."""
    before = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return {"seconds": round(time.perf_counter() - before, 1), "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("precision")
    parser.add_argument("--recipe")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:  # in a process of its own: its memory is not the export's
        (options.make / "arguments.json").write_text(json.dumps(SIZES[options.size](options.make / "checkpoint")))
        return
    with tempfile.TemporaryDirectory() as folder:
        place, bundle = Path(folder), Path(folder) / "bundle"
        subprocess.run([sys.executable, __file__, options.size, options.precision, "--make", folder], check=True)
        recipe = ["--recipe", options.recipe] if options.recipe else []
        edgeroute = [sys.executable, "-m", "edgeroute"]
        exported = measured([
            *edgeroute, "export", *json.loads((place / "arguments.json").read_text()), "--output", str(bundle),
            "--pair", "big", "small", "--name", options.size, "--licence", "none", "--precision",
            options.precision, "--no-limits", "--check-rows", str(CHECK_ROWS), *recipe,
        ])  # fmt: skip
        loaded = measured([*edgeroute, "score", "--model", str(bundle), "Which river flows through Cologne?"])
        manifest = json.loads((bundle / "router.json").read_text())
    graph = manifest["graphs"][0]
    found = {
        "export": exported,
        "load_and_score": loaded,
        "files": {name: entry["size"] for name, entry in manifest["files"].items() if "model." in name},
        "parity": {name: graph["parity"][name] for name in ("n", "max_abs", "mean_abs", "rank_correlation")},
        "cores": len(os.sched_getaffinity(0)),
        "versions": graph["parity"]["versions"],
    }
    name = f"{options.size} {options.precision}" + (f" {Path(options.recipe).stem}" if options.recipe else "")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {name: found}, indent=2) + "\n")
    print(name, json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
