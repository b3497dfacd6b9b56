"""Recipes of the int8 graph: the same function in other operators, followed to the letter, chosen by measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from onnx import numpy_helper  # noqa: E402
from test_export_bert import make_checkpoint, rows_of  # noqa: E402

from edgeroute import BundleError  # noqa: E402
from edgeroute.bundle.manifest import Parity  # noqa: E402
from edgeroute.bundle.onnx_file import inspect_graph  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute_export import tuning  # noqa: E402
from edgeroute_export.build import Traced, serialize  # noqa: E402
from edgeroute_export.evidence import Evidence  # noqa: E402
from edgeroute_export.graph.recipe import Recipe, describe, read_recipe, recipe_text  # noqa: E402
from edgeroute_export.graph.split_norms import reshape  # noqa: E402
from edgeroute_export.kinds import bert  # noqa: E402
from edgeroute_export.parity_limits import ParityLimits  # noqa: E402

ROWS = rows_of(3, 8, 20, 32)
EVIDENCE = Evidence(None, None, ())


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return bert.trace(make_checkpoint(tmp_path_factory.mktemp("bert") / "ckpt"), ("a", "b"), strong="0")


def scores(data: bytes | onnx.ModelProto) -> list[float]:
    session = Session(data if isinstance(data, bytes) else data.SerializeToString(), threads=1)
    return [session.run(row) for row in ROWS]


RESHAPED = [Recipe(skip_layer_norm=False), Recipe(smooth=0.8), Recipe(smooth=0.5, skip_layer_norm=False)]


@pytest.mark.parametrize("recipe", RESHAPED)
def test_a_reshaped_graph_is_the_same_function(router: Traced, recipe: Recipe) -> None:
    shaped = reshape(router.graph, recipe, ROWS)
    assert shaped != router.graph
    np.testing.assert_allclose(scores(shaped), scores(router.graph), atol=2e-6)


def test_split_normalisation_is_not_fused_again(router: Traced, tmp_path: Path) -> None:
    import onnxruntime

    data = serialize(router.graph, "int8", Recipe(skip_layer_norm=False)).graph
    assert "com.microsoft::SkipLayerNormalization" not in inspect_graph(data).operators
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    optimized = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "LayerNormalization" in optimized
    assert "SkipLayerNormalization" not in optimized


def with_an_outlier() -> onnx.ModelProto:
    """Embeddings, a normalisation of which one channel is 100 times the others, a product and a linear head."""
    from edgeroute_export.graph.assemble import attach_head
    from edgeroute_export.graph.heads import linear_head

    rng = np.random.default_rng(1)
    gamma = np.ones(64, np.float32)
    gamma[3] = 100
    weights = {
        "table": rng.normal(0, 1, (90, 64)).astype(np.float32),
        "gamma": gamma,
        "matrix": (rng.normal(0, 1, (64, 64)) / gamma[:, None]).astype(np.float32),
    }
    encoder = onnx.parser.parse_model("""
      <ir_version: 10, opset_import: ["" : 18]>
      encoder (int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask) => (float[batch, tokens, 64] hidden)
      {
        embedded = Gather (table, input_ids)
        normed = LayerNormalization <axis = -1> (embedded, gamma)
        hidden = MatMul (normed, matrix)
      }
    """)
    for node in encoder.graph.node:
        node.name = node.output[0]
    encoder.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return attach_head(encoder, linear_head(rng.normal(0, 3, 64).astype(np.float32), 0.0, hidden="hidden"))


def test_smoothing_brings_int8_closer_when_a_channel_stands_out() -> None:
    model = with_an_outlier()
    exact = np.array(scores(model))
    off = [
        np.abs(np.array(scores(serialize(model, "int8", Recipe(smooth=strength), rows=ROWS).graph)) - exact).mean()
        for strength in (0.0, 0.8)
    ]
    assert off[1] < 0.5 * off[0]


def test_factors_are_quarters_of_an_octave(router: Traced) -> None:
    shaped = reshape(router.graph, Recipe(smooth=0.8), ROWS)
    factors = [numpy_helper.to_array(w) for w in shaped.graph.initializer if w.name.endswith("/smooth_by")]
    assert len(factors) == 4  # three products of the first layer; of the last, which is one token, that behind its norm
    assert all((np.abs(np.log2(each) * 4 - np.rint(np.log2(each) * 4)) < 1e-4).all() for each in factors)
    assert any(np.ptp(each) > 0 for each in factors)


def test_what_is_kept_wide_stays_float32(router: Traced) -> None:
    recipes = (Recipe(), Recipe(wide=("layer.0/output/dense",)))
    narrow, wide = (serialize(router.graph, "int8", recipe).graph for recipe in recipes)
    products = [inspect_graph(data).operators["MatMulInteger"] for data in (narrow, wide)]
    assert products[1] == products[0] - 1
    assert len(wide) > len(narrow)


def test_keeping_wide_what_is_not_there_is_refused(router: Traced) -> None:
    with pytest.raises(BundleError, match=r"keeps layer\.9 wide, but"):
        serialize(router.graph, "int8", Recipe(wide=("layer.9",)))


def test_smoothing_without_anything_to_smooth_is_refused(router: Traced) -> None:
    with pytest.raises(BundleError, match="recipe smooths"):
        serialize(router.graph, "int8", Recipe(smooth=0.5))


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = Recipe(per_channel=False, smooth=0.8, wide=("a/b", 'c"d'), skip_layer_norm=False)
    path = tmp_path / "r.toml"
    path.write_text(recipe_text(recipe, ["measured", "on é"]), encoding="utf-8")
    assert read_recipe(path) == recipe
    path.write_text("[int8]\nsmooth = 0.5\n")
    assert read_recipe(path) == Recipe(smooth=0.5)
    assert describe(recipe).startswith("per_channel = false, smooth = 0.8")
    assert describe(Recipe()) == "defaults"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[int8]\nsmoth = 1", "unknown key 'smoth'"),
        ("[fp16]\n", "unknown key 'fp16'"),
        ("[int8]\nsmooth = 2.0", "smooth: expected 0 to 1"),
        ("[int8]\nwide = 'x'", "expected a list"),
        ("[int8", "is no recipe"),
        ("int8 = 3", "expected an object"),
    ],
)
def test_bad_recipes_say_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(BundleError, match=said):
        read_recipe(path)


def test_tuning_writes_the_fastest_that_passes(router: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The times are given here: on a shared machine real ones of a graph this small are anybody's guess."""
    recipes = [Recipe(), Recipe(skip_layer_norm=False), Recipe(wide=("dense",))]
    given = [{16: 3.0}, {16: 1.0}, {16: 2.0}]
    monkeypatch.setattr(tuning, "_times", lambda sessions, *_: dict(zip(sessions, given, strict=True)))
    path = tmp_path / "r.toml"
    table = tuning.tune_recipe(
        router, path, pair=("a", "b"), evidence=EVIDENCE, limits=ParityLimits(min_rank_correlation=-1), recipes=recipes
    )
    assert read_recipe(path) == recipes[1]
    assert path.read_text().startswith("# measured on ")
    assert table.splitlines()[1].strip().startswith("1.00 ms")

    passes = {recipe: recipe != recipes[1] for recipe in recipes}
    found = iter(recipes)
    monkeypatch.setattr(tuning, "judge", lambda *_: [type("V", (), {"ok": passes[next(found)]})])
    tuning.tune_recipe(router, path, pair=("a", "b"), evidence=EVIDENCE, limits=ParityLimits(), recipes=recipes)
    assert read_recipe(path) == recipes[2]


def test_of_equally_fast_recipes_the_closest_is_taken() -> None:
    def trial(ms: float, correlation: float) -> tuning.Trial:
        parity = Parity("PyTorch fp32", "s", 2, 0.0, 0.0, correlation, {}, {})
        return tuning.Trial(Recipe(), {16: ms, 64: 10 * ms}, parity, True)

    trials = [trial(1.00, 0.996), trial(1.04, 0.999), trial(1.06, 0.9999)]
    assert tuning._best(trials) is trials[1]


def test_tuning_measures_and_says_when_nothing_passes(router: Traced, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no variant holds") as caught:
        tuning.tune_recipe(
            router, tmp_path / "r.toml", pair=("a", "b"), evidence=EVIDENCE,
            limits=ParityLimits(min_rank_correlation=1.5), recipes=[Recipe()],
        )  # fmt: skip
    assert " ms" in str(caught.value)
    assert not (tmp_path / "r.toml").exists()


def test_candidates_are_all_different() -> None:
    assert len(set(tuning.candidates())) == len(list(tuning.candidates())) == 9
