"""TOML files: any bytes give a table or one line of the caller's error."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import ConfigError, PruningError
from epanns.toml_file import parse_toml, read_toml


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
        ("a=" + "[" * 20_000 + "]" * 20_000, "more than 64 tables and lists in each other"),
        ("a=" + "[" * 65 + "]" * 65, "more than 64 tables and lists in each other"),
        ("a=" + "{a=" * 70 + "1" + "}" * 70, "more than 64 tables and lists in each other"),
        ("a=" + "1" * 5000, "a whole number does not fit in 64 bits"),
        ("a=[9223372036854775808]", "a whole number does not fit in 64 bits"),
        ("a=1\na=2", "Cannot overwrite a value (at end of document)"),
        ("a=1979-99-99", "Expected newline or end of document"),
    ],
)
def test_what_toml_must_not_hold_is_named(text, reason):
    with pytest.raises(PruningError, match=rf"^x.toml: cannot be read as TOML \({re.escape(reason)}.*\): correct the"):
        parse_toml(text, "x.toml", error=PruningError)


def test_what_toml_may_hold_is_read(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("a = 9223372036854775807\nb = -9223372036854775808\nc = " + "[" * 63 + "]" * 63)
    assert read_toml(path)["b"] == -(2**63)
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(ConfigError, match=r"fifo.toml: no regular file: correct the file$"):
        read_toml(tmp_path / "fifo.toml")
