"""Prompt files: three formats, one bad line costs itself only, and nothing is lost."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.data import prompts as inputs
from edgeroute.data.prompts import BadLine, PromptLine, decode_prompt, format_of, read_prompts
from edgeroute.errors import InputFileError, PromptError

# What a text line can hold; lone surrogates have no UTF-8.
LINES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r\ufeff")).filter(str.strip)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"]))


def read(data: bytes | str, form: Any, field: str = "prompt") -> list[tuple[int, Any]]:
    """Line and prompt of each line; for a bad one the ``BadLine``."""
    file = io.BytesIO(data.encode() if isinstance(data, str) else data)
    found = read_prompts(file, form, field=field)
    return [(each.line, each.prompt if isinstance(each, PromptLine) else each) for each in found]


def test_the_format_is_that_of_the_name() -> None:
    assert [format_of(name) for name in ("a.txt", "b/c.JSONL", "d.e.csv")] == ["txt", "jsonl", "csv"]
    for name in ("a", "a.json", "a.csv.gz", "txt"):
        with pytest.raises(InputFileError, match="--format"):
            format_of(name)


def test_text_lines_keep_their_numbers_across_blank_ones() -> None:
    assert read("one\n\n  \r\nfour\r\nfive", "txt") == [(1, "one"), (4, "four"), (5, "five")]


def test_a_byte_order_mark_is_no_part_of_a_prompt() -> None:
    assert read(b"\xef\xbb\xbfone\n", "txt") == [(1, "one")]
    assert read(b'\xef\xbb\xbf{"prompt": "one"}\n', "jsonl") == [(1, "one")]
    assert read(b"\xef\xbb\xbfprompt\none\n", "csv") == [(2, "one")]


def test_a_utf16_file_is_one_error() -> None:
    for data in ("one\ntwo".encode("utf-16"), b"\xfe\xff\x00o"):
        with pytest.raises(InputFileError, match="UTF-16"):
            read(data, "txt")


def test_invalid_utf8_costs_its_line_only() -> None:
    first, bad, last = read(b"one\nt\xffo\nthree\n", "txt")
    assert (first, last) == ((1, "one"), (3, "three"))
    assert bad == (2, BadLine(2, "not UTF-8: byte 0xff at byte 2"))


def test_json_lines_hold_prompts_or_chats() -> None:
    chat = [{"role": "user", "content": "hi"}]
    lines = [{"prompt": "one"}, {"messages": chat}, {"prompt": chat}, {"prompt": "kept", "messages": chat}]
    found = read("\n".join(map(json.dumps, lines)), "jsonl")
    assert [prompt for _, prompt in found] == ["one", chat, chat, "kept"]
    assert read('{"q": "one"}', "jsonl", field="q") == [(1, "one")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "secret', "not JSON"),
        ('"secret"', "expected a JSON object, found str"),
        ('{"text": "secret"}', 'neither "prompt" nor "messages"'),
        ('{"prompt": 7}', "expected a string or a list of messages, found int"),
        ('{"prompt": null}', "found NoneType"),
        ("[" * 100_000, "nested too deep"),
        ('{"prompt": ' + "9" * 10_000 + "}", "number too long"),
    ],
)
def test_a_bad_json_line_is_named_and_the_rest_is_read(line: str, says: str) -> None:
    before, (number, bad), after = read(f'{{"prompt": "a"}}\n{line}\n{{"prompt": "b"}}\n', "jsonl")
    assert (before, after) == ((1, "a"), (3, "b"))
    assert number == bad.line == 2
    assert says in bad.error
    assert "secret" not in bad.error


def test_csv_records_have_the_number_of_their_first_line() -> None:
    data = 'id,prompt\n1,"two\nlines, and ""quotes"""\n\n2,plain\r\n3,"last"'
    assert read(data, "csv") == [(2, 'two\nlines, and "quotes"'), (5, "plain"), (6, "last")]


def test_a_quote_that_never_closes_costs_its_line_only() -> None:
    found = read('prompt\n"open\nsecond\nthird\n', "csv")
    assert [line for line, _ in found] == [2, 3, 4]
    assert isinstance(found[0][1], BadLine)
    assert "not CSV" in found[0][1].error
    assert [prompt for _, prompt in found[1:]] == ["second", "third"]


def test_a_quote_that_closes_lines_later_costs_its_line_only() -> None:
    found = read('prompt,n\n"open,1\nsecond,2\n"third, quoted",3\n', "csv")
    assert [prompt for _, prompt in found[1:]] == ["second", "third, quoted"]
    assert found[0][1].line == 2


@pytest.mark.parametrize(("row", "says"), [("a,b,c", "expected 2 fields, found 3"), ("a", "found 1")])
def test_a_row_of_another_width_is_bad(row: str, says: str) -> None:
    """An unquoted comma would silently cut a prompt."""
    found = read(f"id,prompt\n{row}\n1,good\n", "csv")
    assert says in found[0][1].error
    assert found[1] == (3, "good")


def test_invalid_utf8_in_csv_costs_its_line_only() -> None:
    found = read(b'prompt\n\xfe\n"a\n\xff"\nlast\n', "csv")
    assert [line for line, each in found if isinstance(each, BadLine)] == [2, 3, 4]
    assert found[-1] == (5, "last")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("question\nsecret\n", "no columns named 'prompt' among its 1"),
        ("prompt,prompt\na,b\n", "2 columns named 'prompt'"),
        ('"prompt\n', "header cannot be read"),
        (b"\xff\n", "header cannot be read: not UTF-8"),
    ],
)
def test_without_its_column_a_csv_file_is_one_error(data: str | bytes, says: str) -> None:
    with pytest.raises(InputFileError, match=says) as caught:
        read(data, "csv")
    assert "secret" not in str(caught.value)


def test_an_empty_file_holds_no_prompts() -> None:
    assert [read(b"", form) for form in ("txt", "jsonl", "csv")] == [[], [], []]


def test_an_empty_field_is_no_blank_line() -> None:
    """It is given on, and refused as a prompt, so that nothing is lost."""
    assert read('id,prompt\n1,""\n', "csv") == [(2, "")]
    assert read('{"prompt": ""}\n', "jsonl") == [(1, "")]


def test_a_line_beyond_the_limit_is_passed_over_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_PROMPT_BYTES", 1 << 12)
    data = io.BytesIO(b"a\n" + b"x" * (1 << 22) + b"\nb\n" + b"y" * (1 << 12))
    tracemalloc.start()
    found = list(read_prompts(data, "txt"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [each.line for each in found] == [1, 2, 3, 4]
    assert isinstance(found[1], BadLine)
    assert found[2:] == [PromptLine(3, "b"), PromptLine(4, "y" * (1 << 12))]
    assert peak < 1 << 20


def test_a_csv_record_beyond_the_limit_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_PROMPT_BYTES", 64)
    found = read('prompt\n"' + "word\n" * 30 + "end\n", "csv")
    assert "a record of more than" in found[0][1].error
    assert found[-1] == (32, "end")


def test_a_device_that_fails_is_an_error_with_its_line() -> None:
    class Failing(io.BytesIO):
        def readline(self, *args: Any) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().readline(*args)

    with pytest.raises(InputFileError, match="after line 1: Input/output error"):
        list(read_prompts(Failing(b"one\ntwo\n"), "txt"))


def test_a_prompt_of_bytes_is_text_or_an_error() -> None:
    assert decode_prompt("\ufeffsí\n".encode()) == "sí\n"
    with pytest.raises(PromptError, match="not UTF-8: byte 0x80 at byte 1"):
        decode_prompt(b"\x80\x81")


def test_a_prompt_of_too_many_bytes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_PROMPT_BYTES", 8)
    assert decode_prompt(b"12345678") == "12345678"
    with pytest.raises(PromptError, match="more than"):
        decode_prompt(b"123456789")


@given(st.lists(LINES))
def test_every_text_line_comes_back(lines: list[str]) -> None:
    assert [prompt for _, prompt in read("\n".join(lines), "txt")] == lines


@given(st.lists(TEXTS))
def test_every_json_prompt_comes_back(prompts: list[str]) -> None:
    data = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)
    assert read(data, "jsonl") == list(enumerate(prompts, start=1))


@given(st.lists(st.tuples(TEXTS, TEXTS)))
def test_every_csv_prompt_comes_back(rows: list[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "prompt"), *rows])
    assert [prompt for _, prompt in read(text.getvalue(), "csv")] == [prompt for _, prompt in rows]


@given(st.binary(max_size=400), st.sampled_from(["txt", "jsonl", "csv"]))
def test_any_bytes_give_lines_in_order_or_one_error(data: bytes, form: str) -> None:
    try:
        found = read(data, form)
    except InputFileError:
        return
    numbers = [line for line, _ in found]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= data.count(b"\n") + 1 for number in numbers)
