"""Label sets: shipped lists, round trips, messages."""

import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.errors import DataError
from epanns.labels import LabelSet, audioset, fsd50k, in_label_order, names_read_alike, reading, same_classes


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
        ("index,mid,display_name\n0,,a\n1,,a\n", "labels.csv: label 'a' appears twice"),
        ("index,mid,display_name\n0,,Speech, male\n", "labels.csv, row 1: has 4 fields, must have 3: index,mid"),
        ("index,mid,display_name\n0,,a\nb,\n", "labels.csv, row 2: has 2 fields, must have 3"),
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


def test_the_first_repeated_name_is_named_among_very_many():
    names = [f"class_{index}" for index in range(200_000)]
    assert len(LabelSet.of(names)) == 200_000  # counting each name by itself would take hours
    with pytest.raises(DataError, match="label 'class_10' appears twice: names must differ"):
        LabelSet.of([*names, "class_7", "class_10"])


def test_names_and_mids_must_pair():
    with pytest.raises(DataError, match="2 names and 1 mids"):
        LabelSet(("a", "b"), ("",))


def test_identifiers_must_differ():
    with pytest.raises(DataError, match="AudioSet identifier '/m/09x0r' appears twice: identifiers must differ"):
        LabelSet(("a", "b"), ("/m/09x0r", "/m/09x0r"))


def named(labels, found, known):
    return {labels.names[new]: known.names[old] for new, old in found.items()}


def test_classes_are_matched_by_identifier_then_name_then_reading():
    known = LabelSet(("Dog", "Toilet flush", "Rain", "rain", "Sea"), ("/m/1", "/m/2", "", "", "/m/5"))
    wanted = LabelSet(
        ("toilet_flush", "hound", "Rain", "RAIN", "dog bark", "Sea"),
        ("", "/m/1", "", "", "", "/m/9"),
    )
    found = named(wanted, same_classes(known, wanted), known)
    # RAIN is read like two known classes, and the seas have different identifiers.
    assert found == {"toilet_flush": "Toilet flush", "hound": "Dog", "Rain": "Rain"}


def test_readings_of_the_shipped_lists_differ():
    """Losing every identifier, FSD50K's names still find themselves among AudioSet's, and never another class."""
    bare = LabelSet.of(fsd50k().names)
    by_mid, by_name = same_classes(audioset(), fsd50k()), same_classes(audioset(), bare)
    assert len(by_mid) == 192
    assert len(by_name) > 100
    assert {new: by_mid[new] for new in by_name if new in by_mid} == {n: o for n, o in by_name.items() if n in by_mid}


@given(st.permutations(range(12)), st.integers(0, 12), st.booleans())
def test_classes_are_matched_in_any_order_and_spelling(order, shared, has_mids):
    known = LabelSet(
        tuple(f"Wind {index}, strong" for index in range(12)),
        tuple(f"/m/{index}" if has_mids else "" for index in range(12)),
    )
    names = [f"wind_{index}_STRONG" if place < shared else f"other {index}" for place, index in enumerate(order)]
    assert same_classes(known, LabelSet.of(names)) == {place: order[place] for place in range(shared)}
    assert same_classes(known, known) == {index: index for index in range(12)}


def mutant(rng, content):
    """A label list with bytes flipped, cut, doubled or put in."""
    lines = content.splitlines(keepends=True)
    place = rng.randrange(len(content))
    extras = [b"\0", b'"', b"\r", b"\xff", b"\xed\xa0\x80", b"9" * 5000, b"x" * 140_000, b",", "\u202e".encode()]
    return rng.choice(
        [
            lambda: content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :],
            lambda: content[:place],
            lambda: b"".join(lines + rng.sample(lines, 1)),
            lambda: b"".join(rng.sample(lines, len(lines))),
            lambda: content[:place] + rng.choice(extras) + content[place:],
        ]
    )()


@pytest.mark.parametrize("count", [300, pytest.param(6_000, marks=pytest.mark.slow)])
def test_a_damaged_label_list_is_read_or_refused_in_one_line(tmp_path, count):
    path = tmp_path / "labels.csv"
    content = LabelSet(audioset().names[:20], audioset().mids[:20]).to_csv().encode()
    rng = random.Random(count)
    n_refused = 0
    for _ in range(count):
        path.write_bytes(mutant(rng, content))
        try:
            labels = LabelSet.from_csv(path)
        except DataError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
            n_refused += 1
        else:
            assert LabelSet.from_csv_text(labels.to_csv(), "again").digest == labels.digest
    assert count // 4 < n_refused < count


@pytest.mark.parametrize("name", ["a\0b", "half \ud83d"])
def test_names_that_no_file_can_hold_are_refused(name):
    with pytest.raises(DataError, match="label '.*' holds a NUL character or half a character; rename the class"):
        LabelSet.of(["dog", name])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("caf\u00e9", "CAFE\u0301", True),
        ("Stra\u00dfe", "STRASSE", True),
        ("Toilet flush", "toilet_flush", True),
        ("Male speech, man speaking", "male_speech_man_speaking", True),
        ("hip-hop", "Hip hop", True),
        ("rock - live", "Rock_live", True),
        ("dog ", "_dog", True),
        ("\u0926\u093f\u0928", "\u0926\u093e\u0928", False),  # two vowel signs
        ("caf\u00e9", "cafe", False),
        ("C", "C#", False),
        ("C", "(C)", False),
        ("A+", "A-", False),
        ("A", "A-", False),
        ("-1", "1", False),
        ("temperature -1", "temperature 1", False),
        ("1.5", "15", False),
        ("yes!", "yes?", False),
        ("rock & roll", "rock roll", False),
    ],
)
def test_two_spellings_are_one_class_or_two(one, other, same):
    assert bool(same_classes(LabelSet.of([one]), LabelSet.of([other]))) == same


spelled = st.text(st.sampled_from("aAbB \u00e9\u0301e_-,#+()\u2013\u093f\u00df\u0130"), min_size=1, max_size=6)


@settings(max_examples=300)
@given(spelled, spelled, spelled)
def test_being_one_class_is_reflexive_symmetric_and_transitive(a, b, c):
    def same(one, other):
        return bool(same_classes(LabelSet.of([one]), LabelSet.of([other])))

    assert same(a, a)
    assert same(a, b) == same(b, a)
    assert not (same(a, b) and same(b, c)) or same(a, c)


@given(spelled, st.sampled_from(["NFC", "NFD"]), st.sampled_from([str.upper, str.lower, str.title, str.casefold]))
def test_a_reading_ignores_composition_and_case(name, form, case):
    assert reading(unicodedata.normalize(form, name)) == reading(name)
    assert reading(case(name)) == reading(name) or case(name).casefold() != name.casefold()


def test_names_of_one_list_that_read_alike_are_found():
    assert names_read_alike(["Dog", "C", "dog", "C#", "_dog"]) == [("Dog", "dog", "_dog")]


def test_numbers_are_ordered_by_value_and_other_names_as_text():
    assert in_label_order(["10", "2", "1", "0", "2"]) == ["0", "1", "2", "10"]
    assert in_label_order(["1.5", "-2", "+1", "1.25"]) == ["-2", "+1", "1.25", "1.5"]
    assert in_label_order(["10", "2", "a"]) == ["10", "2", "a"]
