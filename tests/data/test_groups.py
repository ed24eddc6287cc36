import re

import pytest

from epanns.data.groups import groups_by_pattern
from epanns.errors import ConfigError, DataError


def test_the_file_name_is_searched_before_the_whole_id():
    ids = ["1 - Dog/1-100-A.ogg", "2 - Rain/4-100-B.ogg", "2 - Rain/4-200-A.ogg"]
    assert groups_by_pattern("^[0-9]-([0-9]+)-", ids) == (["100", "100", "200"], "file name")
    assert groups_by_pattern("^([^/]+)/", ids) == (["1 - Dog", "2 - Rain", "2 - Rain"], "clip id")
    assert groups_by_pattern("(.)", []) == ([], "file name")


def test_a_clip_without_a_group_is_named_and_counted():
    message = "group pattern '([0-9]+)': finds no group for 2 of 3 clips, first 'b.wav'; write one that fits every file"
    with pytest.raises(DataError, match=re.escape(message)):
        groups_by_pattern("([0-9]+)", ["1.wav", "b.wav", "c.wav"])
    with pytest.raises(DataError, match="finds no group for 1 of 1 clips"):
        groups_by_pattern("a(b*)", ["a.wav"])  # an empty group is none


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"group pattern '\(': is no regular expression \(missing \), unterminated"),
        ("a", "group pattern 'a': has 0 capturing groups, must have exactly one"),
        ("(a)(b)", r"has 2 capturing groups, must have exactly one, .* write others as \(\?:...\)"),
        ("(a{99999999999})", "is no regular expression"),
    ],
)
def test_a_pattern_must_have_one_group(pattern, message):
    with pytest.raises(ConfigError, match=message):
        groups_by_pattern(pattern, ["a"])
