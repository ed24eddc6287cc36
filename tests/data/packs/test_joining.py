"""Packs of other classes, orders, lengths and formats become one data set, or are refused."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.data.batches import dataset as dataset_module
from epanns.data.batches.compatibility import refuse_leak
from epanns.data.batches.crop import Crop
from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.sampler import Draw
from epanns.data.packs.joining import join_labels
from epanns.errors import PackError
from epanns.labels import LabelSet, audioset, fsd50k
from tests.data.memory_pack import MemoryPack

DOG, RAIN, SEA = ("dog", "/m/dog"), ("rain", "/m/rain"), ("sea", "/m/sea")


def labels(*classes):
    return LabelSet(tuple(name for name, _ in classes), tuple(mid for _, mid in classes))


@pytest.fixture
def join(monkeypatch):
    """Join packs that are in memory."""

    def joined(*packs, **options):
        monkeypatch.setattr(dataset_module, "open_pack", lambda path, **options: packs[int(path.name)])
        return PackDataset([str(index) for index in range(len(packs))], **options)

    return joined


def classes_by_clip(dataset):
    return {
        clip.decode(): {dataset.labels.names[index] for index in np.flatnonzero(row)}
        for clip, row in zip(dataset.clip_ids, dataset.targets.dense(), strict=True)
    }


def test_classes_in_another_order_are_mapped_to_the_first_pack(join):
    both = join(MemoryPack("a", ["dog", "rain"], [[1, 0]]), MemoryPack("b", ["rain", "dog"], [[1, 0], [0, 1]]))
    assert both.labels.names == ("dog", "rain")
    assert classes_by_clip(both) == {"a0": {"dog"}, "b0": {"rain"}, "b1": {"dog"}}
    assert [label_map.describe() for label_map in both.label_maps if not label_map.is_identity] == [
        "b: its 2 classes come in another order and are mapped"
    ]
    assert both[1].target.tolist() == [[False, True]]


def test_other_classes_join_in_the_order_of_their_appearance(join):
    packs = (
        MemoryPack("a", labels(DOG, RAIN), [[1, 1]]),
        MemoryPack("b", labels(("hound", "/m/dog"), SEA), [[1, 0], [0, 1]]),
        MemoryPack("c", ["sea", "owl"], [[1, 1]]),
    )
    dataset = join(*packs)
    assert dataset.labels == labels(DOG, RAIN, SEA, ("owl", ""))
    assert classes_by_clip(dataset) == {"a0": {"dog", "rain"}, "b0": {"dog"}, "b1": {"sea"}, "c0": {"sea", "owl"}}
    assert [(label_map.places, label_map.added) for label_map in dataset.label_maps] == [
        ((0, 1), 0),
        ((0, 2), 1),
        ((2, 3), 1),
    ]
    assert [label_map.describe() for label_map in dataset.label_maps[:2]] == [
        "a: has 2 of the 4 classes; its clips count as having none of the 2 others",
        "b: has 2 of the 4 classes (1 shared with the packs before it, 1 new); "
        "its clips count as having none of the 2 others",
    ]


def test_fsd50k_joins_audioset_by_identifiers():
    joined, maps = join_labels([MemoryPack("a", audioset(), []), MemoryPack("f", fsd50k(), [])], None)
    assert maps[1].added == 8
    assert len(joined) == 535
    assert joined.names[maps[1].places[fsd50k().index("Acoustic_guitar")]] == "Acoustic guitar"


def test_an_identifier_of_one_pack_matches_later_packs():
    packs = [MemoryPack("a", ["dog"], [[1]]), MemoryPack("b", labels(DOG), [[1]])]
    packs.append(MemoryPack("c", labels(("hound", "/m/dog")), [[1]]))
    joined, maps = join_labels(packs, None)
    assert joined == labels(DOG)
    assert [label_map.places for label_map in maps] == [(0,), (0,), (0,)]


def test_classes_in_another_spelling_are_the_same(join):
    packs = [MemoryPack("a", ["caf\u00e9", "toilet_flush", "C"], [[1, 0, 0]])]
    packs.append(MemoryPack("b", ["cafe\u0301", "Toilet flush", "C#"], [[1, 1, 0], [0, 0, 1]]))
    dataset = join(*packs)
    assert dataset.labels.names == ("caf\u00e9", "toilet_flush", "C", "C#")
    assert dataset.label_maps[1].places == (0, 1, 3)
    assert dataset.label_maps[1].describe() == (
        "b: has 3 of the 4 classes (2 shared with the packs before it, 1 new); its clips count as having none of the 1 "
        "others; 2 in another spelling, such as 'cafe\u0301' for 'caf\u00e9'"
    )
    assert dataset.label_maps[0].respelled == ()
    with pytest.raises(PackError, match="b: its class 'C#' is not among the 3 given classes"):
        join(packs[1], labels=LabelSet.of(["caf\u00e9", "toilet_flush", "C"]))


def test_a_spelling_of_two_classes_matches_neither(join):
    dataset = join(MemoryPack("a", ["Dog", "dog"], [[1, 0]]), MemoryPack("b", ["DOG"], [[1]]))
    assert dataset.labels.names == ("Dog", "dog", "DOG")


def test_a_given_label_set_fixes_the_map(join):
    pack = MemoryPack("a", labels(RAIN, DOG), [[1, 0], [0, 1]])
    for dataset in (join(pack, labels=labels(DOG, RAIN, SEA)), join(pack).with_labels(labels(DOG, RAIN, SEA))):
        assert dataset.labels.names == ("dog", "rain", "sea")
        assert dataset.targets.dense().tolist() == [[False, True, False], [True, False, False]]
    with pytest.raises(PackError, match="a: its class 'dog' is not among the 2 given classes; use a label list"):
        join(pack, labels=labels(RAIN, SEA))


def test_the_content_digest_depends_on_the_classes(join):
    pack = MemoryPack("a", ["dog", "rain"], [[1, 0]])
    one = join(pack)
    assert one.content_digest != one.with_labels(LabelSet.of(["rain", "dog"])).content_digest
    assert one.content_digest == one.with_crop(Crop(0.05)).content_digest


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (labels(DOG), labels(("dog", "/m/cat")), "b: class 'dog' has two AudioSet identifiers, /m/dog and /m/cat"),
        (labels(DOG), labels(("hound", "/m/dog"), ("dog", "")), "b: its classes 'hound' and 'dog' are both 'dog'"),
    ],
)
def test_ambiguous_classes_are_refused(join, one, other, message):
    packs = [MemoryPack(name, names, [[1] * len(names)]) for name, names in (("a", one), ("b", other))]
    with pytest.raises(PackError, match=re.escape(message)):
        join(*packs)


def test_repeated_clips_are_reported(join):
    one, other = (MemoryPack(name, ["dog"], [[1]] * 3, clip_ids=["x", name, "y"]) for name in ("a", "b"))
    with pytest.raises(PackError, match="a and b share clips, 'x' and 1 more; join packs of different splits"):
        join(one, other)
    with pytest.raises(PackError, match="a: clip 'x' is repeated; pack again"):
        join(MemoryPack("a", ["dog"], [[1]] * 2, clip_ids=["x", "x"]))


def test_packs_of_different_lengths_can_be_joined_if_cropped(join):
    packs = (
        MemoryPack("a", ["dog"], [[1]] * 2, rows=8, lengths=[8, 3]),
        MemoryPack("b", ["dog"], [[1]], rows=20),
    )
    with pytest.raises(PackError, match="cannot be joined: clip_samples 8 and 20; pack both with the same, or crop"):
        join(*packs)
    dataset = join(*packs, crop=Crop(0.05, "start"))
    assert (dataset.clip_samples, dataset.clip_seconds) == (5, 0.05)
    batch = dataset.__getitems__([0, 1, 2])
    assert batch.waveform.tolist() == [[1, 2, 3, 4, 5], [2, 3, 4, 0, 0], [1, 2, 3, 4, 5]]
    assert batch.n_samples.tolist() == [5, 3, 5]
    repeated = dataset.with_crop(Crop(0.05, "start", "repeat")).__getitems__([1])
    assert repeated.waveform.tolist() == [[2, 3, 4, 2, 3]]
    assert repeated.n_samples.tolist() == [5]
    with pytest.raises(PackError, match="clip_samples 8 and 20"):
        dataset.with_crop(None)
    whole = join(packs[0], crop=Crop(None, short="repeat"))
    assert whole[1].waveform.tolist() == [[2, 3, 4, 2, 3, 4, 2, 3]]


@given(st.integers(0, 1), st.integers(0, 2**40), st.integers(0, 9))
def test_a_random_crop_depends_on_the_number_of_the_draw_alone(clip, number, seed):
    def crop_of(lone, *, before):
        pack = MemoryPack("a", ["dog"], [[1]] * 2, rows=90)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataset_module, "open_pack", lambda path, **options: pack)
            dataset = PackDataset(["0"], crop=Crop(0.1, seed=seed))
        draws = [Draw(1, 7)] * before + [Draw(clip, number)]
        return (dataset[lone] if lone is not None else dataset.__getitems__(draws)).waveform[-1].tolist()

    assert crop_of(None, before=0) == crop_of(None, before=3)
    assert crop_of(clip, before=0) == crop_of(clip, before=0)


def dense_digest(*packs):
    """The definition of the content digest, through one dense table."""
    text = f"{packs[0].labels.digest} {packs[0].sample_rate} {packs[0].clip_samples}"
    content = hashlib.sha256(text.encode())
    content.update(b"\0".join(clip for pack in packs for clip in pack.columns.clip_ids.tolist()))
    for pack in packs:
        crc32 = pack.columns.crc32
        content.update(pack.digest.encode() if crc32 is None else crc32.tobytes())
    content.update(np.concatenate([pack.columns.n_samples for pack in packs]).tobytes())
    content.update(np.packbits(np.concatenate([pack.columns.targets.dense() for pack in packs]), axis=1).tobytes())
    return content.hexdigest()


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_content_digest_is_that_of_the_dense_table(join, monkeypatch, block, checksums):
    monkeypatch.setattr(dataset_module, "_DIGEST_ROWS", block)
    target = np.random.default_rng(0).random((5, 11)) < 0.3
    names = [f"c{index}" for index in range(11)]
    packs = MemoryPack("a", names, target), MemoryPack("b", names, target[:2], checksums=checksums)
    assert join(*packs).content_digest == dense_digest(*packs)


def pack_of(clip_ids, name="p", **options):
    return MemoryPack(name, ["dog"], [[1]] * len(clip_ids), clip_ids=clip_ids, **options)


def test_a_leak_between_two_data_sets_is_detected_by_id_and_checksum(join):
    training = join(pack_of(["a", "b", "c"]))
    refuse_leak(training, join(pack_of(["c", "a", "x"], "q")), part="test")  # the same names, other sounds
    with pytest.raises(PackError, match="2 of 3 test clips are training clips too, first 'b': that is a leak"):
        refuse_leak(training, join(pack_of(["x", "b", "c"], "q")), part="test")


def test_a_clip_of_one_data_set_is_the_same_however_it_was_encoded(join):
    training = join(pack_of(["a", "b", "c"]))
    message = r"2 of 3 test clips are training clips too \(equal by their ids alone: both are of p; .*\), first 'c'"
    with pytest.raises(PackError, match=message):
        refuse_leak(training, join(pack_of(["c", "a", "x"])), part="test")
    refuse_leak(training, join(pack_of(["x", "y"])), part="test")


@pytest.mark.parametrize("other", [{"checksums": False}, {"rows": 9}])
def test_without_checksums_a_leak_is_detected_by_id_alone(join, other):
    training, held_out = join(pack_of(["a", "b", "c"])), join(pack_of(["c", "longer", "a"], "q", **other))
    message = r"2 of 3 test clips are training clips too \(equal by their ids alone: .*\), first 'c': that is a leak"
    for one, another in ((training, held_out), (held_out, training)):
        with pytest.raises(PackError, match=message if one is training else "2 of 3 .* first 'a'"):
            refuse_leak(one, another, part="test")
    refuse_leak(training, join(pack_of(["x", "y"], "q", **other)), part="test")


def test_an_index_out_of_range_is_an_error(join):
    dataset = join(pack_of(["a", "b"]))
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"clip {index} of 2"):
            dataset[index]
