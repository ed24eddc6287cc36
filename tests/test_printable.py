"""Text from files reaches neither a terminal as commands nor a spreadsheet as formulae."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.printable import is_printable, printable, printable_json, spreadsheet_cell

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("\u2066x\u2069\u200b\ufeff", r"\u2066x\u2069\u200b\ufeff"),
        ("wav\udce9.wav", r"wav\udce9.wav"),
        ("\U000e0001", r"\U000e0001"),
        ("line\u2028end", r"line\u2028end"),
    ],
)
def test_what_steers_a_terminal_becomes_visible(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["plain", "Füße × 2 – «é»", "e\u0301", "नमस्ते", "می\u200cخواهم", "👩\u200d🚒 🏳️", "犬の声"]
)
def test_ordinary_text_stays(text):
    assert printable(text) == text
    assert printable_json(text) == text


# A family, Persian "I go" and "books", Sinhala "Sri", Hindi with a joiner, a flag, a heart with its variation.
NAMES = [
    "👩\u200d👩\u200d👧",
    "می\u200cروم",
    "کتاب\u200cها",
    "ශ්\u200dරී",
    "क्\u200dष",
    "🇫🇷",
    "❤\ufe0f",
    "दिन",
    "한국",
    "เสียง",
]


def test_names_of_any_script_are_printable_and_hidden_characters_are_not():
    assert all(is_printable(name) and printable(name) == name for name in NAMES)
    assert not any(
        is_printable(f"a{hidden}b") for hidden in ("\n", "\x1b", "\u202e", "\u200b", "\u2028", "\udce9", "\0")
    )


def test_line_feeds_and_tabs_stay_in_text_of_several_lines():
    assert printable("a\tb\nc\x1b\r", lines=True) == "a\tb\nc" + r"\x1b\r"


@given(ANY_TEXT)
def test_no_text_keeps_a_control_character_or_fails_to_be_written(text):
    shown = printable(text)
    assert {unicodedata.category(letter) for letter in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert printable(shown) == shown
    shown.encode()


@given(st.dictionaries(ANY_TEXT, ANY_TEXT))
def test_json_keeps_its_value_and_can_be_written(value):
    shown = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "--5", "+1 b"]
)
def test_a_cell_that_is_a_formula_gets_an_apostrophe(cell):
    assert spreadsheet_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "-5", "+0.5", "-1e-3", "-.5", "-inf", "a=b", "–", "'=1", "1", "Dog @ home"])
def test_other_cells_stay(cell):
    assert spreadsheet_cell(cell) == cell
