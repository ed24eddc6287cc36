"""Notes: shown once, without an effect on other warnings."""

import warnings

import pytest

from epanns.feedback import Note, note, notes_to


def test_each_note_is_logged_once():
    told: list[str] = []
    with notes_to(told.append):
        for text in ("a", "b", "a"):
            note(text)
    assert told == ["a", "b"]


def test_other_warnings_are_not_swallowed():
    told: list[str] = []
    with pytest.warns(RuntimeWarning, match="c"), notes_to(told.append):
        warnings.warn("c", RuntimeWarning, stacklevel=1)
    assert told == []


def test_without_a_command_a_note_is_a_warning():
    with pytest.warns(Note, match="^labels are not checked$") as caught:
        note("labels are not checked")
    assert [warning.filename for warning in caught] != [note.__code__.co_filename]
