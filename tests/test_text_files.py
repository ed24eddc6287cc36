"""Text, TOML and JSON files: any bytes give a value or one line of the caller's error."""

import json
import os
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import CheckpointError, ConfigError, DataError, PruningError
from epanns.text_files import LONGEST_JSON, parse_json, parse_toml, read_json, read_toml

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64) + 1, 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_written_json_is_read_back(tmp_path_factory, value, escaped):
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_text(json.dumps(value, ensure_ascii=escaped), encoding="utf-8")
    assert read_json(path, error=DataError) == value


@given(st.binary() | st.text(alphabet='{}[]":,\\u0d8e+-1Na').map(str.encode))
def test_any_bytes_give_a_value_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    try:
        value = read_json(path, error=DataError)
    except DataError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable()
    else:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[NaN]", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        ("1e999", "'1e999' is beyond the range of float64"),
        ("18446744073709551616", "'18446744073709551616' is a whole number of 2**64 or more"),
        ("9" * 5000, f"'{'9' * 40}...' is a whole number of 2**64 or more"),
        ('{"a": 1, "b": {"a": 1, "a": 2}}', "key 'a' occurs twice in one table"),
        ('["\\ud800"]', r"'\ud800' has a lone surrogate"),
        ('{"\\udfff": 1}', r"'\udfff' has a lone surrogate"),
        ("[" * 65 + "]" * 65, "tables and lists are nested more than 64 deep"),
        ("[" * 1_000_000, "tables and lists are nested more than 64 deep"),
        ('{"a":' * 100_000, "tables and lists are nested more than 64 deep"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_values_that_json_must_not_have_are_named(text, reason):
    with pytest.raises(CheckpointError) as caught:
        parse_json(text, "x.json", error=CheckpointError)
    assert str(caught.value) == f"x.json: cannot be read as JSON ({reason}): correct the file or write it again"


def test_deepest_value_and_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "deep.json"
    path.write_bytes(b"\xef\xbb\xbf" + b"[" * 64 + b"]" * 64)
    assert read_json(path, error=DataError)


def test_long_and_sparse_files_are_not_read(tmp_path):
    path = tmp_path / "sparse.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(
        DataError, match=f"sparse.json: 1,099,511,627,776 bytes, must be at most {LONGEST_JSON:,}: mend it"
    ):
        read_json(path, error=DataError, remedy="mend it")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match=rf"^{path}: (no regular file|cannot be read \(Is a directory\)): correct"):
            read_json(path, error=DataError)
    with pytest.raises(DataError, match=r"none.json: cannot be read \(No such file or directory\): correct"):
        read_json(tmp_path / "none.json", error=DataError)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(Path("a\0b"), error=DataError)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes('{"é": 1}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.json: byte 2 is not UTF-8: correct the file or write it again$"):
        read_json(path, error=DataError)


@given(st.binary() | st.text(alphabet="{}[]=\"'#.,\\u0d8e+-1_:TZ\n\r\t ainf").map(str.encode))
def test_any_bytes_give_a_table_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    try:
        assert isinstance(read_toml(path), dict)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a=" + "[" * 20_000 + "]" * 20_000, "tables and lists are nested more than 64 deep"),
        ("a=" + "[" * 65 + "]" * 65, "tables and lists are nested more than 64 deep"),
        ("a=" + "{a=" * 70 + "1" + "}" * 70, "tables and lists are nested more than 64 deep"),
        ("a=" + "1" * 5000, "a whole number does not fit in 64 bits"),
        ("a=[9223372036854775808]", "a whole number does not fit in 64 bits"),
        ("a=1\na=2", "Cannot overwrite a value (at end of document)"),
        ("a=1979-99-99", "Expected newline or end of document"),
    ],
)
def test_values_that_toml_must_not_have_are_named(text, reason):
    with pytest.raises(PruningError, match=rf"^x.toml: cannot be read as TOML \({re.escape(reason)}.*\): correct the"):
        parse_toml(text, "x.toml", error=PruningError)


def test_all_other_toml_is_read(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("a = 9223372036854775807\nb = -9223372036854775808\nc = " + "[" * 63 + "]" * 63)
    assert read_toml(path)["b"] == -(2**63)
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(ConfigError, match=r"fifo.toml: no regular file: correct the file$"):
        read_toml(tmp_path / "fifo.toml")


def test_a_repeated_key_among_many_is_found_in_one_pass():
    """Counting each key anew took hours at the largest file; this takes a blink, or the suite would stand still."""
    many = ", ".join(f'"{number}": 0' for number in range(200_000))
    with pytest.raises(ConfigError, match="key '7' occurs twice"):
        parse_json(f'{{{many}, "7": 1}}', "many.json", error=ConfigError)
