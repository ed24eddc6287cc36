"""Label sets: shipped lists, round trips, messages."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import DataError
from epanns.labels import LabelSet, audioset, fsd50k, same_classes


def test_shipped_lists_are_the_official_ones():
    assert (len(audioset()), len(fsd50k())) == (527, 200)
    assert audioset().names[:2] == ("Speech", "Male speech, man speaking")
    assert audioset().index("/m/05zppz") == audioset().index("Male speech, man speaking") == 1
    assert fsd50k().names[0] == "Accelerating_and_revving_and_vroom"
    assert len(set(fsd50k().mids) - set(audioset().mids)) == 8  # classes FSD50K does not share with AudioSet


def test_shipped_lists_equal_the_published_files(shared):
    meta = shared / "data" / "meta"
    assert LabelSet.from_csv(meta / "audioset" / "class_labels_indices.csv") == audioset()
    rows = [line.split(",") for line in (meta / "fsd50k" / "vocabulary.csv").read_text().splitlines()]
    assert fsd50k() == LabelSet(tuple(row[1] for row in rows), tuple(row[2] for row in rows))


@given(st.lists(st.text(min_size=1).filter(lambda name: "\r" not in name and "\x00" not in name), unique=True))
def test_labels_survive_csv(names):
    labels = LabelSet.of(names)
    assert LabelSet.from_csv_text(labels.to_csv(), "memory") == labels


def test_digest_depends_on_names_and_order():
    assert LabelSet.of(["a", "b"]).digest == LabelSet.of(["a", "b"]).digest
    assert LabelSet.of(["a", "b"]).digest != LabelSet.of(["b", "a"]).digest


def test_unknown_label_offers_the_nearest():
    with pytest.raises(DataError, match=r"unknown label 'Speach' \(did you mean 'Speech'\?\): not among 527 classes"):
        audioset().index("Speach")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be index,mid,display_name, is ''"),
        ("name\n", "first line must be index,mid,display_name, is 'name'"),
        ("index,mid,display_name\n0,,a\n2,,b\n", "line 3: '2,,b' must be 1,<mid>,<display name>"),
        ("index,mid,display_name\n0,,a\n1,,a\n", "label 'a' stands more than once"),
    ],
)
def test_wrong_label_files_are_named(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        LabelSet.from_csv(path)


def test_unreadable_label_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing.csv: cannot be read as a label list"):
        LabelSet.from_csv(tmp_path / "nothing.csv")


def test_the_first_repeated_name_is_told_among_very_many():
    names = [f"class_{index}" for index in range(200_000)]
    assert len(LabelSet.of(names)) == 200_000  # counting each name by itself would take hours
    with pytest.raises(DataError, match="label 'class_10' stands more than once: names must differ"):
        LabelSet.of([*names, "class_7", "class_10"])


def test_names_and_mids_must_pair():
    with pytest.raises(DataError, match="2 names and 1 mids"):
        LabelSet(("a", "b"), ("",))


def test_an_identifier_stands_once():
    with pytest.raises(
        DataError, match="AudioSet identifier '/m/09x0r' stands more than once: identifiers must differ"
    ):
        LabelSet(("a", "b"), ("/m/09x0r", "/m/09x0r"))


def named(labels, found, known):
    return {labels.names[new]: known.names[old] for new, old in found.items()}


def test_classes_are_the_same_by_identifier_then_by_name_then_by_how_the_name_is_read():
    known = LabelSet(("Dog", "Toilet flush", "Rain", "rain", "Sea"), ("/m/1", "/m/2", "", "", "/m/5"))
    wanted = LabelSet(
        ("toilet_flush", "hound", "Rain", "RAIN", "dog bark", "Sea"),
        ("", "/m/1", "", "", "", "/m/9"),
    )
    found = named(wanted, same_classes(known, wanted), known)
    # RAIN is read like two known classes, and the seas have different identifiers.
    assert found == {"toilet_flush": "Toilet flush", "hound": "Dog", "Rain": "Rain"}


def test_readings_of_the_shipped_lists_are_told_apart():
    """Losing every identifier, FSD50K's names still find themselves among AudioSet's, and never another class."""
    bare = LabelSet.of(fsd50k().names)
    by_mid, by_name = same_classes(audioset(), fsd50k()), same_classes(audioset(), bare)
    assert len(by_mid) == 192
    assert len(by_name) > 100
    assert {new: by_mid[new] for new in by_name if new in by_mid} == {n: o for n, o in by_name.items() if n in by_mid}


@given(st.permutations(range(12)), st.integers(0, 12), st.booleans())
def test_classes_are_found_wherever_they_stand_and_however_they_are_spelled(order, shared, has_mids):
    known = LabelSet(
        tuple(f"Wind {index}, strong" for index in range(12)),
        tuple(f"/m/{index}" if has_mids else "" for index in range(12)),
    )
    names = [f"wind_{index}_STRONG" if place < shared else f"other {index}" for place, index in enumerate(order)]
    assert same_classes(known, LabelSet.of(names)) == {place: order[place] for place in range(shared)}
    assert same_classes(known, known) == {index: index for index in range(12)}
