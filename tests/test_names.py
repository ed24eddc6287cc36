"""Names that a file gives become parts of paths only after one check."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import DataError, PackError
from epanns.names import LONGEST, is_path_name, path_name


@pytest.mark.parametrize("name", ["a", "test", "fold-1", "2f9a0c", ".hidden", "...", "A_b.c-D", "x" * LONGEST])
def test_plain_names_are_kept(name):
    assert path_name(name, "split", DataError) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a b", "a\n", "\n", "C:", "é", "٣", "a\0", "\x1b[2J", "\ud800"]
    + ["x" * (LONGEST + 1), 5, None, True, ["a"], {"a": 1}],
)
def test_other_names_are_refused_in_one_line_of_the_callers_class(name):
    with pytest.raises(PackError, match="^pack.json: split=") as refused:
        path_name(name, "pack.json: split", PackError)
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 400
    assert "must be a name of 1 to 200 of the characters" in message
    assert message.endswith("rename it")


@given(st.text(st.characters(exclude_categories=())))
def test_a_name_that_passes_stays_in_its_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    if is_path_name(name):
        assert (folder / name).resolve().parent == folder.resolve()
