"""Class maps: round trip, the scores of mapped classes against a loop, and one message for each fault."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import DataError
from epanns.evaluation.class_map import ClassMap
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import Predictions
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.zero_shot import zero_shot
from epanns.labels import LabelSet, audioset, yamnet

WHOLE = EvaluationProtocol()
HEADER = "category,mid,display_name\n"
ANIMALS = LabelSet(("Dog", "Bark", "Cat", "Rain"), ("/m/0bt9lr", "/m/05tny_", "/m/01yrx", "/m/06mb1"))
DATA = LabelSet.of(["rain", "dog", "sea"])
ROWS = "dog,/m/0bt9lr,Dog\ndog,/m/05tny_,Bark\nrain,/m/06mb1,Rain\n"


def read(folder, text, *, encoding="utf-8"):
    path = folder / "map.csv"
    path.write_text(text, encoding=encoding, newline="")
    return ClassMap.from_csv(path)


def between(folder, rows, network=ANIMALS, data=DATA):
    return read(folder, HEADER + rows).between(network, data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_map_is_read_with_quotes_with_a_byte_order_mark_and_with_any_line_ends(tmp_path, encoding, end):
    text = HEADER + 'airplane,/m/0cmf2,"Fixed-wing aircraft, airplane"\n"dog",/m/0bt9lr,Dog\n'
    found = read(tmp_path, text.replace("\n", end), encoding=encoding)
    assert found.rows == (("airplane", "/m/0cmf2", "Fixed-wing aircraft, airplane"), ("dog", "/m/0bt9lr", "Dog"))


def test_columns_may_be_in_any_order_and_the_digest_is_that_of_the_rows(tmp_path):
    one, other = read(tmp_path, HEADER + ROWS), read(tmp_path, "mid,category,display_name\n/m/0bt9lr,dog,Dog\n")
    assert other.rows == one.rows[:1]
    assert one.digest != other.digest
    assert one.digest == ClassMap(one.rows, "elsewhere").digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its columns are ''; must be category,mid,display_name; give a class map"),
        ("category,mid\ndog,/m/0bt9lr\n", "its columns are 'category,mid'; must be category,mid,display_name"),
        (HEADER, "has no row below its first line; must have one for each class"),
        (HEADER + ",/m/0bt9lr,Dog\n", "row 1: ,/m/0bt9lr,Dog must have a category, and a mid or a display_name"),
        (HEADER + ROWS + "sea,,\n", "row 4: sea,, must have a category, and a mid or a display_name"),
        (HEADER + ROWS + ROWS, "the row dog,/m/0bt9lr,Dog appears twice; must differ; remove one"),
        (HEADER + "dog,/m/0bt9lr\n", "row 1: has 2 fields, must have 3"),
        (HEADER + "airplane,/m/0cmf2,Fixed-wing aircraft, airplane\n", "row 1: has 4 fields, must have 3"),
        (HEADER + 'dog,/m/0bt9lr,"Dog\n', "cannot be read as a class map"),
    ],
)
def test_a_damaged_map_has_one_message(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'map.csv'}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("dog,,Dogg\n", "'Dogg' is no class of the network and none of AudioSet (did you mean 'Dog'?); correct or"),
        ("dog,/m/none,Dogg\n", "'Dogg' (/m/none) is no class of the network and none of AudioSet"),
        ("dog,/m/0bt9lr,Cat\n", "/m/0bt9lr is 'Dog' in the network, and 'Cat' is another class of it; must be one"),
        ("dog,/m/none,Dog\n", "'Dog' (/m/none) is no class of the network"),
        ("dog,/m/0bt9lr,Dog\nrain,/m/0bt9lr,Hound\n", "AudioSet identifier '/m/0bt9lr' appears twice"),
        ("dog,/m/0bt9lr,Dog\nrain,/m/06mb1,Dog\n", "label 'Dog' appears twice"),
        ("dog,,Dog\nDog,,Bark\n", "'dog', 'Dog' are spellings of one class; must be equal; choose one"),
        ("cow,,Cat\n", "maps none of the 3 classes of the data ('rain', 'dog', 'sea') to a class of the network"),
        ("sea,/m/05kq4,Ocean\n", "maps none of the 3 classes of the data"),
    ],
)
def test_a_map_that_contradicts_its_classes_has_one_message(tmp_path, rows, message):
    with pytest.raises(DataError) as error:
        between(tmp_path, rows)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'map.csv'}: ")


def test_every_class_that_is_left_out_is_listed(tmp_path):
    found = between(tmp_path, ROWS + "sea,/m/05kq4,Ocean\ncow,/m/01yrx,Cat\n")
    assert found.columns == {0: (3,), 1: (0, 1)}
    assert found.labels.names == ("rain", "dog")
    assert (found.unmapped, found.not_in_data, found.not_in_network) == (("sea",), ("cow",), ("Ocean",))
    assert found.remarks() == [
        "1 of 3 classes of the data have no class of the network: 'sea'",
        "1 categories of the class map are no classes of the data: 'cow'",
        "1 of AudioSet's classes in the class map are none of the network's: 'Ocean'",
    ]
    assert found.to_dict()["n_mapped"] == 2


def test_a_complete_map_has_nothing_to_remark(tmp_path):
    found = between(tmp_path, ROWS, data=LabelSet.of(["rain", "dog"]))
    assert found.remarks() == []


def test_classes_are_found_by_identifier_or_else_by_name(tmp_path):
    by_mid = between(tmp_path, "dog,/m/0bt9lr,\n")
    by_name = between(tmp_path, "dog,,dog\n", network=LabelSet.of(["cat", "Dog"]))
    spelled = between(tmp_path, "DOG,/m/0bt9lr,Domestic dog\n")
    assert (by_mid.columns, by_name.columns, spelled.columns) == ({1: (0,)}, {1: (1,)}, {1: (0,)})


def test_two_classes_of_the_data_may_have_one_class_of_the_network(tmp_path):
    assert between(tmp_path, "dog,,Cat\nsea,,Cat\n").columns == {1: (2,), 2: (2,)}


@pytest.mark.parametrize("labels", [audioset(), yamnet()])
def test_every_class_of_a_network_maps_to_itself(labels):
    rows = tuple((name, mid, name) for name, mid in zip(labels.names, labels.mids, strict=True))
    found = ClassMap(rows).between(labels, LabelSet.of(labels.names))
    assert found.columns == {index: (index,) for index in range(len(labels))}
    assert found.remarks() == []


def test_audiosets_classes_that_yamnet_lacks_are_listed():
    rows = (("speech", "/m/09x0r", "Speech"), ("speech", "/m/05zppz", "Male speech, man speaking"))
    found = ClassMap(rows).between(yamnet(), LabelSet.of(["speech"]))
    assert found.columns == {0: (0,)}
    assert found.not_in_network == ("Male speech, man speaking",)


@given(st.integers(0, 2**32 - 1))
def test_scores_are_the_highest_of_the_classes_and_clips_without_a_mapped_class_are_left_out(seed):
    rng = np.random.default_rng(seed)
    scores, target = rng.random((12, 4)), rng.random((12, 3)) < 0.4
    target[0] = [True, True, False]
    rows = (("dog", "", "Dog"), ("dog", "", "Bark"), ("rain", "", "Rain"))
    mapped = ClassMap(rows).between(ANIMALS, DATA)
    found = zero_shot(Predictions(tuple("abcdefghijkl"), scores, target), mapped, WHOLE, bootstrap=0)
    kept = [clip for clip in range(12) if target[clip, 0] or target[clip, 1]]
    assert found.predictions.clip_ids == tuple("abcdefghijkl"[clip] for clip in kept)
    assert found.n_clips_left_out == 12 - len(kept)
    for place, clip in enumerate(kept):
        dog, rain = max(scores[clip, 0], scores[clip, 1]), scores[clip, 3]
        assert found.predictions.scores[place].tolist() == [rain, dog]
        assert found.predictions.target[place].tolist() == target[clip, :2].tolist()
    again = evaluate(found.predictions, LabelSet.of(["rain", "dog"]), WHOLE, bootstrap=0)
    assert (found.scores.mAP, found.scores.accuracy) == (again.mAP, None)
    assert found.scores.protocol.startswith("whole clip; zero-shot, 2 of 3 classes, class map ")


def test_accuracy_is_the_share_of_clips_whose_class_has_the_highest_score():
    mapped = ClassMap((("dog", "", "Dog"), ("dog", "", "Bark"), ("rain", "", "Rain"))).between(ANIMALS, DATA)
    scores = np.array([[0.1, 0.9, 1.0, 0.8], [0.1, 0.2, 1.0, 0.3], [0.6, 0.1, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    target = np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    found = zero_shot(Predictions(tuple("abcd"), scores, target), mapped, WHOLE, bootstrap=10)
    assert found.scores.accuracy == pytest.approx(2 / 3)
    assert (found.scores.n_clips, found.n_clips_left_out) == (3, 1)
    assert found.remarks()[-1] == "1 clips have no mapped class and are left out"
    assert found.to_dict()["class_map"]["n_clips_left_out"] == 1


def test_clips_without_any_mapped_class_are_refused():
    mapped = ClassMap((("dog", "", "Dog"),)).between(ANIMALS, DATA)
    nothing = Predictions(("a",), np.zeros((1, 4)), np.array([[True, False, True]]))
    with pytest.raises(DataError, match=r"none of 1 clips has one of the 1 mapped classes: zero-shot scores need"):
        zero_shot(nothing, mapped, WHOLE)
