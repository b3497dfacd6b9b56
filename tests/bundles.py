"""Make tiny, real bundles fast: a word-piece tokenizer and an ONNX graph of a few thousand weights.

The graph is an encoder in small: embeddings and positions, a linear layer with tanh, masked mean, a linear head,
sigmoid. Its int8 form quantizes the linear layer dynamically over the whole batch tensor, as real int8 bundles do, so
neighbours in one run would change a score. The position table has ``max_tokens`` rows: longer inputs fail.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgeroute.bundle.manifest import MANIFEST, TOKENIZER, TextPolicy, seal
from edgeroute.engine.calibration import fit_quantiles
from edgeroute.engine.session import Session
from edgeroute.engine.text import TextEncoder

WIDTH = 16
OPSET = 17
INT8, FP32 = "model.int8.onnx", "model.fp32.onnx"
GOLDEN = ("hello", "What is the capital of Peru?", "Prove that there are infinitely many primes.", "write a poem")

_WORDS = """
the of and a to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then them
these so some her would make like him into time has look two more write go see number no way could people my than first
water been call who oil its now find long down day did get come made may part over new sound take only little work know
place year live me back give most very after thing our just name good sentence man think say great where help through
much before line right too mean old any same tell boy follow came want show also around form three small set put end
does another well large must big even such because turn here why ask went men read need land different home us move try
kind hand picture again change off play spell air away animal house point page letter mother answer found study still
learn should capital peru prove there infinitely primes prime poem hello theorem integral code function list python
explain summarize translate rewrite email friendly weather proof matrix vector graph logic quantum protein contract
user assistant question number theory history river city country king queen bread milk tea train car plane
"""
WORDS = _WORDS.split()


def make_bundle(
    folder: Path | str,
    *,
    name: str = "tiny",
    precisions: Sequence[str] = ("int8", "fp32"),
    text: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Write a sealed bundle into ``folder`` (made if missing) and return it.

    ``precisions``: its graphs, in order of preference. ``text``: keys that replace those of the text policy.
    ``change``: edits the raw manifest just before it is sealed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    policy = {"max_tokens": 32, "keep": "head_tail", "chat": "last_user", "turns": 3, "template": None, **(text or {})}
    tokenizer = make_tokenizer().to_str().encode()
    (folder / TOKENIZER).write_bytes(tokenizer)
    encoder = TextEncoder(tokenizer, TextPolicy(**policy))
    graphs = []
    for precision in precisions:
        file = f"model.{precision}.onnx"
        (folder / file).write_bytes(make_graph(precision, max_tokens=policy["max_tokens"]).SerializeToString())
        graphs.append(_graph_entry(file, precision, encoder, Session((folder / file).read_bytes(), threads=1)))
    manifest = {
        "format": 1,
        "name": name,
        "kind": "tiny",
        "version": "1",
        "licence": "Apache-2.0",
        "description": "A bundle for tests with random weights.",
        "pair": {"strong": "big-model", "weak": "small-model"},
        "training": {"command": "none", "seed": 0, "base": "none", "ties": "weak", "data": []},
        "text": policy,
        "files": {},
        "graphs": graphs,
        "default": {"strong_share": 0.5},
    }
    (folder / MANIFEST).write_bytes(seal(manifest))
    reseal(folder, change)
    return folder


def stability_receipt(flips: float = 0.02) -> dict[str, Any]:
    """A stability receipt in which every rewording changes as many decisions."""
    by_share = {"0.25": flips, "0.5": flips, "0.75": flips}
    return {"sample": "tiny", "n": 100, "rewordings": {"polite": by_share}, "affixes": {"400_dots": by_share}}


def add_stability(folder: Path, flips: float = 0.02) -> Path:
    """Make a bundle one of format 2 whose graphs have stability receipts."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["format"] = 2
        for graph in manifest["graphs"]:
            graph["stability"] = stability_receipt(flips)

    reseal(folder, change)
    return folder


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> str:
    """Make the manifest true to the files that lie in ``folder`` and return the new digest.

    Sizes and hashes are taken from the files; then ``change`` may edit the raw manifest, and it is sealed.
    """
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"] = {path.name: file_entry(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    if change is not None:
        change(manifest)
    data = seal(manifest)
    (folder / MANIFEST).write_bytes(data)
    digest: str = json.loads(data)["digest"]
    return digest


def file_entry(path: Path) -> dict[str, Any]:
    """Size and hash of a file, as a manifest lists them."""
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def set_graph(folder: Path, model: onnx.ModelProto | bytes, file: str = INT8) -> Path:
    """Replace a graph of the bundle and reseal it."""
    (folder / file).write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    reseal(folder)
    return folder


def set_tokenizer(folder: Path, tokenizer: Tokenizer | bytes) -> Path:
    """Replace the tokenizer of the bundle and reseal it."""
    data = tokenizer if isinstance(tokenizer, bytes) else tokenizer.to_str().encode()
    (folder / TOKENIZER).write_bytes(data)
    reseal(folder)
    return folder


def make_tokenizer(words: Sequence[str] = WORDS) -> Tokenizer:
    """A word-piece tokenizer with [CLS] and [SEP] around the text."""
    signs = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()[]{}-+*/=<>_#@$%&"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *signs, *(f"##{sign}" for sign in signs[:36]), *dict.fromkeys(words)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


def vocabulary_size() -> int:
    """Rows that the embedding table of ``make_graph`` has."""
    return make_tokenizer().get_vocab_size()


def make_graph(precision: str = "int8", *, rows: int | None = None, max_tokens: int = 32) -> onnx.ModelProto:
    """The tiny encoder as ``int8`` or ``fp32``; ``rows`` of the embedding table, by default the vocabulary's."""
    rng = np.random.default_rng(7)
    layer = rng.normal(0, 0.5, (WIDTH, WIDTH)).astype(np.float32)
    scale = np.float32(np.abs(layer).max() / 127)
    constants = {
        "words": rng.normal(0, 1, (rows or vocabulary_size(), WIDTH)).astype(np.float32),
        "positions": rng.normal(0, 0.2, (max_tokens, WIDTH)).astype(np.float32),
        "head": rng.normal(0, 1.5, (WIDTH, 1)).astype(np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "axis": np.array([1], np.int64),
        "last": np.array([-1], np.int64),
    }
    node = helper.make_node
    if precision == "int8":
        constants |= {"layer": np.round(layer / scale).astype(np.int8), "layer_scale": scale}
        product = [
            node("DynamicQuantizeLinear", ["x"], ["x8", "x_scale", "x_zero"]),
            node("MatMulInteger", ["x8", "layer", "x_zero"], ["y32"]),
            node("Cast", ["y32"], ["y32f"], to=TensorProto.FLOAT),
            node("Mul", ["x_scale", "layer_scale"], ["y_scale"]),
            node("Mul", ["y32f", "y_scale"], ["y"]),
        ]
    else:
        constants["layer"] = layer
        product = [node("MatMul", ["x", "layer"], ["y"])]
    nodes = [
        node("Gather", ["words", "input_ids"], ["word"]),
        node("Shape", ["input_ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["tokens"]),
        node("Range", ["zero", "tokens", "one"], ["index"]),
        node("Gather", ["positions", "index"], ["position"]),
        node("Add", ["word", "position"], ["x"]),
        *product,
        node("Tanh", ["y"], ["hidden"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["column"]),
        node("Mul", ["hidden", "column"], ["masked"]),
        node("ReduceSum", ["masked", "axis"], ["total"], keepdims=0),
        node("ReduceSum", ["column", "axis"], ["count"], keepdims=0),
        node("Div", ["total", "count"], ["mean"]),
        node("MatMul", ["mean", "head"], ["logit"]),
        node("Squeeze", ["logit", "axis"], ["flat"]),
        node("Sigmoid", ["flat"], ["score"]),
    ]
    return make_model(nodes, constants)


def graph_parts(precision: str = "fp32") -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes and constants of a graph, to build a changed one with ``make_model``."""
    graph = make_graph(precision).graph
    return list(graph.node), {each.name: numpy_helper.to_array(each) for each in graph.initializer}


def make_model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    *,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of ``nodes``, by default with the contract's inputs and output."""
    value = helper.make_tensor_value_info
    if inputs is None:
        inputs = [value(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("input_ids", "attention_mask")]
    if outputs is None:
        outputs = [value("score", TensorProto.FLOAT, ["batch"])]
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def sample_prompts(n: int = 200, seed: int = 3) -> list[str]:
    """Prompts of 1 to 40 random words."""
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randint(1, 40))) for _ in range(n)]


def _graph_entry(file: str, precision: str, encoder: TextEncoder, session: Session) -> dict[str, Any]:
    scores = [session.run(encoder.encode(prompt).ids) for prompt in sample_prompts()]
    golden = [{"prompt": prompt, "score": session.run(encoder.encode(prompt).ids)} for prompt in GOLDEN]
    return {
        "file": file,
        "precision": precision,
        "providers": ["cpu"],
        "calibration": {"sample": "random words", "n": len(scores), "quantiles": list(fit_quantiles(scores, 21))},
        "golden": {"tolerance": 0.001, "scores": golden},
    }


def run_padded(graph: bytes, ids: Any, mask: Any) -> Any:
    """The scores of a batch of ids ``[n, tokens]`` under a mask of any shape, straight from onnxruntime."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["score"], {"input_ids": ids, "attention_mask": mask})[0]


def with_data(location: str = "model.data") -> tuple[bytes, bytes]:
    """The fp32 graph with its embedding table moved into a file, and that file."""
    model = make_graph("fp32")
    (words,) = (each for each in model.graph.initializer if each.name == "words")
    data = words.raw_data
    words.ClearField("raw_data")
    words.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(data))}.items():
        words.external_data.add(key=key, value=value)
    return model.SerializeToString(), data
