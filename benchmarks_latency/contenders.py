"""Other ways to get the same score from the same weights, each a function from a prompt to a score.

``make_contenders`` gives them for one checkpoint and number of threads. All read a prompt with the checkpoint's own
tokenizer, cut it where the bundle does, run the encoder, and put the same head behind it, collapsed to numpy. None is
timed before ``disagreement`` has compared its scores with PyTorch's: what computes something else is no contender.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from weights import Weights, export_ours, export_plain, head_of

from edgeroute.bench.prompts import mixed_prompts

Score = Callable[[str], float]
TOLERANCE = {"fp32": 2e-3, "bf16": 0.05, "int8": 0.08}
"""Largest mean |Δscore| from PyTorch fp32: what tells rounding from another function."""


@dataclass(frozen=True, slots=True)
class Contender:
    """``score`` is timed; ``precision`` says how far it may be from PyTorch's fp32; ``prepare`` runs before a block."""

    name: str
    precision: str
    score: Score
    prepare: Callable[[], object] = lambda: None


def make_contenders(weights: Weights, threads: int, scratch: Path, *, torch_only: bool = False) -> list[Contender]:
    """Every contender on ``weights``; those whose library is not installed are left out.

    ``scratch`` keeps what optimum exports. ``torch_only``: PyTorch's two alone, as for a teacher.
    """
    head = head_of(weights)
    found = [
        _torch(weights, head, torch.float32, "fp32", threads),
        _torch(weights, head, torch.bfloat16, "bf16", threads),
    ]
    if torch_only:
        return found
    exported = export_plain(weights, scratch)
    found += [_onnxruntime(weights, head, exported, threads), _pipeline(weights, head, exported, threads)]
    for make in (_openvino, _sentence_transformers):
        try:
            found += make(weights, head, exported, threads)
        except ModuleNotFoundError as error:
            print(f"left out: {error.name} is not installed")
    return found


def disagreement(contender: Contender, prompts: Sequence[str], expected: np.ndarray) -> float:
    """Mean |Δscore|; raises ``SystemExit`` above the tolerance of the contender's precision."""
    contender.prepare()
    found = float(np.abs(np.array([contender.score(each) for each in prompts]) - expected).mean())
    if not found <= TOLERANCE[contender.precision]:
        raise SystemExit(f"{contender.name} computes something else: mean |Δscore| {found:.4f}")
    return found


def _torch(weights: Weights, head: Any, dtype: torch.dtype, precision: str, threads: int) -> Contender:
    tokenizer = AutoTokenizer.from_pretrained(weights.folder)
    kind = AutoModel if weights.encoder else AutoModelForSequenceClassification
    model = kind.from_pretrained(weights.folder, dtype=dtype).eval()
    pool = _pool(weights)

    def score(prompt: str) -> float:
        given = tokenizer(prompt, truncation=True, max_length=weights.max_tokens, return_tensors="pt")
        with torch.inference_mode():
            output = model(**given)
            values = pool(output.last_hidden_state[0]) if weights.encoder else output.logits[0]
        return head(values.float().numpy(), given["input_ids"][0].numpy())

    return Contender(f"{weights.name}: PyTorch {precision}", precision, score, partial(torch.set_num_threads, threads))


def _pool(weights: Weights) -> Callable[[Any], Any]:
    """From hidden states ``[tokens, width]`` to ``[width]``; a classifier's logits stay as they are."""
    if weights.encoder is None:
        return lambda logits: logits
    return (lambda hidden: hidden[0]) if weights.pooling == "cls" else (lambda hidden: hidden.mean(0))


def _encode(weights: Weights) -> Callable[[str], Any]:
    """Ids as int64 ``[1, tokens]`` straight from the ``tokenizers`` library."""
    tokenizer = AutoTokenizer.from_pretrained(weights.folder).backend_tokenizer
    tokenizer.enable_truncation(weights.max_tokens)
    tokenizer.no_padding()
    return lambda prompt: np.array([tokenizer.encode(prompt).ids], dtype=np.int64)


def _feed(ids: Any, names: Sequence[str]) -> dict[str, Any]:
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: values[name] for name in names}


def _session(exported: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(exported / "model.onnx", options, providers=["CPUExecutionProvider"])


def _onnxruntime(weights: Weights, head: Any, exported: Path, threads: int) -> Contender:
    session, encode, pool = _session(exported, threads), _encode(weights), _pool(weights)
    names = [each.name for each in session.get_inputs()]

    def score(prompt: str) -> float:
        ids = encode(prompt)
        (values,) = session.run(None, _feed(ids, names))
        return head(pool(values[0]), ids[0])

    return Contender(f"{weights.name}: onnxruntime fp32", "fp32", score)


def _pipeline(weights: Weights, head: Any, exported: Path, threads: int) -> Contender:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTModelForSequenceClassification

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    kind = ORTModelForFeatureExtraction if weights.encoder else ORTModelForSequenceClassification
    model = kind.from_pretrained(exported, session_options=options)
    tokenizer = AutoTokenizer.from_pretrained(weights.folder, model_max_length=weights.max_tokens)
    run = pipeline(weights.task, model=model, tokenizer=tokenizer)

    def score(prompt: str) -> float:
        if weights.encoder is None:
            found = run(prompt, truncation=True, top_k=None, function_to_apply="none")
            logits = {each["label"]: each["score"] for each in found}
            return head(np.array([logits[label] for label in labels]), None)
        hidden = np.asarray(run(prompt, truncation=True, return_tensors=True))[0]
        return head(pool(hidden), encode(prompt)[0])

    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    encode, pool = _encode(weights), _pool(weights)
    return Contender(f"{weights.name}: optimum pipeline", "fp32", score)


def _openvino(weights: Weights, head: Any, exported: Path, threads: int) -> list[Contender]:
    """OpenVINO at each precision it has here: fp32, bf16 where the CPU does it, and int8 by NNCF where installed.

    On what optimum exports, and on the float32 graph that edgeroute makes of the same weights, its head included.
    """
    pool = _pool(weights)
    found = _compiled(weights, exported / "model.onnx", lambda values, ids: head(pool(values[0]), ids[0]), threads, "")
    ours = export_ours(weights, exported)
    return found + _compiled(weights, ours, lambda values, _ids: float(values[0]), threads, ", edgeroute's graph")


def _compiled(
    weights: Weights, graph: Path, finish: Callable[[Any, Any], float], threads: int, of: str
) -> list[Contender]:
    import openvino

    core, plain = openvino.Core(), openvino.Core().read_model(graph)
    models = {"fp32": (plain, "f32")}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        models["bf16"] = (plain, "bf16")
    encode, names = _encode(weights), [each.any_name for each in plain.inputs]
    try:
        models["int8"] = (_nncf(graph, lambda prompt: _feed(encode(prompt), names)), "f32")
    except ModuleNotFoundError as error:
        print(f"left out: OpenVINO int8, for {error.name} is not installed")
    except Exception as error:  # of NNCF, which does not know every graph
        print(f"left out: OpenVINO int8{of}, for NNCF says: {error}")
    found = []
    for precision, (model, hint) in models.items():
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()

        def score(prompt: str, request: Any = request) -> float:
            ids = encode(prompt)
            return finish(request.infer(_feed(ids, names), share_inputs=True)[0], ids)

        found.append(Contender(f"{weights.name}: OpenVINO {precision}{of}", precision, score))
    return found


def _nncf(graph: Path, feed: Callable[[str], dict[str, Any]]) -> Any:
    """The model quantized after training on 100 prompts of the mix, as OpenVINO's guide has it; made once."""
    import openvino

    place = graph.with_suffix(".int8.xml")
    if not place.exists():
        import logging

        import nncf

        nncf.set_log_level(logging.ERROR)
        data = nncf.Dataset(mixed_prompts(100, seed=9, chats=False), feed)
        model = openvino.Core().read_model(graph)
        found = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=100)
        openvino.save_model(found, place)
    return openvino.Core().read_model(place)


def _sentence_transformers(weights: Weights, head: Any, _exported: Path, threads: int) -> list[Contender]:
    if weights.encoder is None:
        return []
    from sentence_transformers import SentenceTransformer, models

    encoder = models.Transformer(weights.folder, max_seq_length=weights.max_tokens)
    width = json.loads((weights.encoder / "config.json").read_text())["hidden_size"]
    model = SentenceTransformer(modules=[encoder, models.Pooling(width, weights.pooling)], device="cpu").eval()

    def score(prompt: str) -> float:
        (found,) = model.encode([prompt], output_value=None, show_progress_bar=False)
        return head(found["sentence_embedding"].float().numpy(), found["input_ids"].numpy())

    prepare = partial(torch.set_num_threads, threads)
    return [Contender(f"{weights.name}: sentence-transformers", "fp32", score, prepare)]
