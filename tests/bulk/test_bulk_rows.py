"""What is read: Parquet, JSONL and CSV, every column kept, a bad row an error in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import sample_prompts

from edgeroute.bulk import parts
from edgeroute.bulk.parts import Receipt, cut, find_inputs
from edgeroute.bulk.run import open_run
from edgeroute.bulk.work import Scorer, score_here
from edgeroute.errors import InputFileError
from edgeroute.router import Router

Score = Callable[..., list[Receipt]]
OURS = ["score", "target", "n_tokens", "truncated", "error"]


@pytest.fixture
def score(router: Router, base_bundle: Path, tmp_path: Path) -> Score:
    """Score ``in`` or another source into ``out``; returns the receipts by name of the input."""

    def score(source: str = "in", **settings: Any) -> list[Receipt]:
        place, out = str(tmp_path / source), str(tmp_path / "out")
        with open_run(place, out, router, model=str(base_bundle), **settings) as run:
            done = list(score_here(run.todo, Scorer(run.settings, router)))
        return sorted(done, key=lambda each: each.output)

    (tmp_path / "in").mkdir()
    return score


def rows(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(tmp_path / "out" / name).to_pylist()
    return found


def write(tmp_path: Path, name: str, **columns: Any) -> None:
    pq.write_table(pa.table(columns), tmp_path / "in" / name)


@pytest.mark.parametrize("threads", [1, 3])
def test_scores_are_the_routers_bit_for_bit_in_order_and_beside_every_column(
    score: Score, router: Router, tmp_path: Path, threads: int
) -> None:
    prompts = sample_prompts(700, seed=5)
    tags = pa.array([{"a": [i, None]} for i in range(700)])
    write(tmp_path, "a.parquet", id=pa.array(range(700), pa.int16()), prompt=prompts, tags=tags)
    (receipt,) = score(threads=threads, strong_share=0.25)
    assert (receipt.rows, receipt.errors, receipt.failure) == (700, 0, None)
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.select(["id", "prompt", "tags"]).equals(pq.read_table(tmp_path / "in" / "a.parquet"))
    assert table.column_names[3:] == OURS
    assert table.schema.field("score").type == pa.float32()
    assert table["score"].to_numpy().tobytes() == router.score_batch(prompts).tobytes()
    expected = [router.choose(each, strong_share=0.25) for each in prompts]
    for name in ("target", "n_tokens", "truncated"):
        assert table[name].to_pylist() == [getattr(each, name) for each in expected]
    assert {"strong", "weak"} == set(table["target"].to_pylist())
    assert table["error"].null_count == 700


@pytest.mark.parametrize("groups", [7, 25, 1000])
def test_a_large_file_is_cut_into_parts_of_whole_rows(
    score: Score, router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    monkeypatch.setattr(parts, "ROWS_A_PART", 30)
    prompts = sample_prompts(100, seed=6)
    pq.write_table(
        pa.table({"id": range(100), "prompt": prompts}), tmp_path / "in" / "a.parquet", row_group_size=groups
    )
    assert [(each.output, each.rows) for each in score()] == [
        ("a-00000.parquet", 30),
        ("a-00001.parquet", 30),
        ("a-00002.parquet", 30),
        ("a-00003.parquet", 10),
    ]
    table = pq.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == list(range(100))
    assert table["score"].to_numpy().tobytes() == router.score_batch(prompts).tobytes()


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (pa.string(), None),
        (pa.large_string(), " "),
        (pa.string_view(), None),
        (pa.binary(), b"secr\xff"),
        (pa.dictionary(pa.int8(), pa.string()), None),
    ],
)
def test_text_of_every_kind_is_a_prompt_and_null_is_an_error(
    score: Score, router: Router, tmp_path: Path, kind: pa.DataType, bad: Any
) -> None:
    texts = ["hello", "write a poem"]
    values = [each.encode() if kind == pa.binary() else each for each in texts]
    write(tmp_path, "a.parquet", prompt=pa.array([values[0], bad, values[1]]).cast(kind))
    assert score()[0].errors == 1
    first, broken, last = rows(tmp_path, "a.parquet")
    assert [first["score"], last["score"]] == [router.score(each) for each in texts]
    assert broken["error"] in (
        "the prompt is null",
        "the prompt is empty: there is nothing to score",
        "the prompt is not UTF-8: byte 0xff at byte 5",
    )
    assert [broken[name] for name in OURS[:4]] == [None] * 4


def test_a_string_column_that_is_no_utf8_costs_its_row(score: Score, tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"hello", b"t\xffo", b"poem"]).buffers())
    write(tmp_path, "a.parquet", prompt=broken)
    assert (score()[0].rows, score("in")) == (3, [])
    assert [bool(each["error"]) for each in rows_without(tmp_path, "prompt")] == [False, True, False]


def rows_without(tmp_path: Path, column: str) -> list[dict[str, Any]]:
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    found: list[dict[str, Any]] = table.drop_columns([column]).to_pylist()
    return found


def test_chats_are_lists_of_messages(score: Score, router: Router, tmp_path: Path) -> None:
    chats: list[Any] = [
        [{"role": "user", "content": "hello"}],
        [
            {"role": "user", "content": "why"},
            {"role": "assistant", "content": "so"},
            {"role": "user", "content": "and"},
        ],
        [{"role": "assistant", "content": "so"}],
        [],
        None,
    ]
    write(tmp_path, "a.parquet", messages=chats)
    assert score(column="messages")[0].errors == 3
    found = rows(tmp_path, "a.parquet")
    assert [each["score"] for each in found[:2]] == [router.score(each) for each in chats[:2]]
    assert [each["error"] for each in found[2:]] == [
        'the chat has no message of role "user"',
        "the chat has no messages",
        "the prompt is null",
    ]


def test_jsonl_keeps_types_that_hold_and_writes_the_others_as_json(
    score: Score, router: Router, tmp_path: Path
) -> None:
    (tmp_path / "in" / "a.jsonl").write_text(
        '{"prompt": "hello", "n": 1, "x": 1, "ok": true, "mix": 1, "half": "\\ud800", "big": 9223372036854775808}\n'
        "\n"
        '{"prompt": "poem", "n": 2, "x": 0.5, "ok": null, "mix": "one", "late": {"a": [1]}}\n'
        '{"prompt": "sec\n'
        '{"prompt": 7, "n": 3}\n'
        '{"messages": [{"role": "user", "content": "tea"}], "n": 4}\n'
    )
    assert (score()[0].rows, score()) == (5, [])
    first, second, broken, number, chat = rows(tmp_path, "a.jsonl.parquet")
    assert [each["score"] for each in (first, second, chat)] == [
        router.score(each) for each in ("hello", "poem", "tea")
    ]
    assert (first["n"], first["x"], first["ok"], first["mix"], first["half"]) == (1, 1.0, True, "1", "\\ud800")
    assert (first["big"], second["mix"], second["late"]) == ("9223372036854775808", '"one"', '{"a": [1]}')
    assert (second["x"], second["ok"], number["n"]) == (0.5, None, 3)
    assert broken["error"].startswith("line 4: not JSON")
    assert {value for name, value in broken.items() if name != "error"} == {None}
    assert number["error"] == 'line 5: "prompt": expected a string or a list of messages, found int'
    assert "sec" not in broken["error"]


def test_csv_is_text_and_a_ragged_row_keeps_what_it_has(score: Score, router: Router, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.csv").write_bytes(
        b'id,prompt,n\n007,"hello\nthere",1\n8\n9,poem,2,more\n10,"un"closed,3\n\n11,t\xffo,4\n12,tea,5\n'
    )
    assert score()[0].errors == 4
    found = rows(tmp_path, "a.csv.parquet")
    assert [each["id"] for each in found] == ["007", "8", "9", None, None, "12"]
    assert [each["score"] for each in (found[0], found[-1])] == [router.score("hello\nthere"), router.score("tea")]
    assert found[2]["prompt"] == "poem"
    assert [each["error"] for each in found[1:3]] == [
        "line 4: expected 3 fields, found 1",
        "line 5: expected 3 fields, found 4",
    ]
    assert found[3]["error"].startswith("line 6: not CSV: ")
    assert found[4]["error"] == "line 8: not UTF-8: byte 0xff at byte 5"


def test_files_without_rows_become_files_without_rows(score: Score, tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", prompt=pa.array([], pa.string()))
    (tmp_path / "in" / "b.jsonl").touch()
    (tmp_path / "in" / "c.csv").write_text("prompt\n")
    assert [(each.rows, each.failure) for each in score()] == [(0, None)] * 3
    assert pq.read_table(tmp_path / "out" / "a.parquet").column_names == ["prompt", *OURS]
    assert pq.read_table(tmp_path / "out" / "b.jsonl.parquet").column_names == OURS


def test_lines_that_are_all_broken_are_rows_all_the_same(score: Score, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.jsonl").write_text("x\ny\n")
    (receipt,) = score()
    assert (receipt.rows, receipt.errors) == (2, 2)
    assert [each["error"].split(":")[0] for each in rows(tmp_path, "a.jsonl.parquet")] == ["line 1", "line 2"]


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text.parquet": (lambda path: path.write_text("nonsense"), "cannot be read: "),
    "cut.parquet": (lambda path: _truncated(path), "cannot be read: "),
    "none.parquet": (
        lambda path: pq.write_table(pa.table({"a": [1], "b": [2]}), path),
        "no columns named 'prompt' among 'a', 'b'",
    ),
    "number.parquet": (
        lambda path: pq.write_table(pa.table({"prompt": [1]}), path),
        "the column 'prompt' is int64, expected text",
    ),
    "taken.parquet": (
        lambda path: pq.write_table(pa.table({"prompt": ["a"], "score": [1], "error": [""]}), path),
        "has a column score, error already: rename edgeroute's columns, as with --prefix edgeroute_",
    ),
    "empty.csv": (lambda path: path.touch(), "expected a CSV header, found an empty file"),
    "none.csv": (lambda path: path.write_text("secret,text\n1,2\n"), "no columns named 'prompt' among the 2"),
    "twice.csv": (
        lambda path: path.write_text("prompt,a,a\n1,2,3\n"),
        "two columns of the CSV header have the same name",
    ),
    "utf16.csv": (lambda path: path.write_text("prompt\na\n", encoding="utf-16"), "the file is UTF-16"),
    "none.jsonl": (
        lambda path: path.write_text('{"text": "secret"}\n'),
        "no line has 'prompt' or \"messages\" among 'text'",
    ),
    "keys.jsonl": (
        lambda path: path.write_text("".join(f'{{"prompt": "a", "k{i}": 1}}\n' for i in range(1001))),
        "more than 1000 different keys",
    ),
}


def _truncated(path: Path) -> None:
    """A footer that is whole before a page that is not."""
    pq.write_table(pa.table({"prompt": sample_prompts(2000)}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200:4000] = bytes(3800)
    path.write_bytes(data)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_used_fails_alone(score: Score, tmp_path: Path, name: str) -> None:
    make, says = BAD_FILES[name]
    make(tmp_path / "in" / name)
    write(tmp_path, "good.parquet", prompt=["hello"])
    found = {each.name: each for each in score()}
    assert found["good.parquet"].failure is None
    assert found[name].failure is not None
    assert found[name].failure.startswith(says)
    assert "secret" not in found[name].failure
    assert not found[name].stop
    assert [path.name for path in (tmp_path / "out").rglob("*.parquet")] == ["good.parquet"]


def test_a_file_that_changes_while_it_is_read_fails(
    score: Score, router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in" / "a.jsonl"
    path.write_text('{"prompt": "hello"}\n' * 3)
    choose = router.choose

    def append(*arguments: Any, **more: Any) -> Any:
        with path.open("a") as file:
            file.write('{"prompt": "late"}\n')
        return choose(*arguments, **more)

    monkeypatch.setattr(router, "choose", append)
    assert (score()[0].failure or "").startswith("changed while the run went on")
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_a_name_that_is_taken_goes_with_a_prefix(score: Score, tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", prompt=["hello"], score=[1])
    assert score(prefix="edgeroute_")[0].failure is None
    (row,) = rows(tmp_path, "a.parquet")
    assert list(row) == ["prompt", "score", *(f"edgeroute_{name}" for name in OURS)]
    assert (row["score"], np.float32(row["edgeroute_score"]) == row["edgeroute_score"]) == (1, True)


def test_which_files_a_name_stands_for(tmp_path: Path) -> None:
    for name in ("b.csv", "a.parquet", "deep/er/c.JSONL", "_skipped/d.csv", ".e.csv", "notes.md", "out/f.parquet"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).touch()
    (tmp_path / "x" / "a[1].csv").touch()
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "notes.md").touch()
    out = tmp_path / "x" / "out"

    def found(source: str) -> list[str]:
        return find_inputs(str(tmp_path / source), out).names

    assert found("x") == ["a.parquet", "a[1].csv", "b.csv", "deep/er/c.JSONL"]
    assert find_inputs(str(tmp_path / "x"), out).passed_over == 1
    assert found("x/*.csv") == ["a[1].csv", "b.csv"]
    assert found("x/**/*.parquet") == ["a.parquet"]
    assert found("x/a[1].csv") == ["a[1].csv"]
    for source, says in (
        ("x/*.md", "expected names that end in .parquet, .jsonl or .csv, found notes.md"),
        ("x/*.zip", "no file matches this pattern"),
        ("x/nothing", "no such file or folder"),
        ("x/notes.md", "expected names that end in"),
        ("y", "expected files that end in .parquet, .jsonl or .csv, found none among 1"),
    ):
        with pytest.raises(InputFileError, match=says):
            found(source)


def test_two_inputs_do_not_share_an_output(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "a.csv.parquet").touch()
    with pytest.raises(InputFileError, match=r"a.csv and a.csv.parquet would both be written to a.csv.parquet"):
        cut(find_inputs(str(tmp_path), tmp_path / "out"))
