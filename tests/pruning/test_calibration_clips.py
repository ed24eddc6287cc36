"""Calibration clips: every pass reads the same batches, from a pack and from tensors."""

import pytest
import torch

from epanns.data.batches.dataset import PackDataset
from epanns.errors import PruningError
from epanns.models.zoo import build_model
from epanns.pruning.calibration_clips import BATCH_CLIPS, CalibrationClips, is_held_out, split_rows


@pytest.fixture
def dataset(tiny_packs):
    return PackDataset([tiny_packs["train"]])


@pytest.fixture
def network(dataset):
    return build_model("Cnn14_8k", width=0.03, labels=dataset.labels)


def test_a_pack_and_its_tensors_give_the_same_batches_in_every_pass(dataset, network):
    pack = CalibrationClips.from_pack(dataset)
    first, second = list(pack.waveforms(network)), list(pack.waveforms(network))
    tensors = list(CalibrationClips.of(first).waveforms(network))
    assert [len(batch) for batch in first] == [BATCH_CLIPS] * (len(dataset) // BATCH_CLIPS) + [
        rest for rest in [len(dataset) % BATCH_CLIPS] if rest
    ]
    for others in (second, tensors):
        assert all(torch.equal(one, other) for one, other in zip(first, others, strict=True))
    labelled = list(pack.for_ranking(network, labelled=True))
    assert all(torch.equal(batch[0], one) for batch, one in zip(labelled, first, strict=True))
    assert all(batch[1].shape == (len(batch[0]), len(dataset.labels)) for batch in labelled)


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_are_read_in_the_given_order(dataset, network, in_memory):
    rows = [5, 3, 8]
    clips = CalibrationClips.from_pack(dataset, rows, in_memory=in_memory)
    for _ in range(2):
        (batch,) = clips.waveforms(network)
        assert torch.equal(batch, dataset.__getitems__(rows).float_waveform())


def test_progress_reports_every_pass(dataset, network):
    passes = []

    def progress(batches, purpose, total):
        passes.append((purpose, total))
        return batches

    clips = CalibrationClips.from_pack(dataset, progress=progress)
    list(clips.waveforms(network))
    list(clips.for_ranking(network, labelled=False))
    batches = -(-len(dataset) // BATCH_CLIPS)
    assert passes == [("calibrate", batches), ("rank", batches)]


def test_an_iterator_is_refused_where_several_passes_are_needed():
    with pytest.raises(PruningError, match="waveforms of type list_iterator: they are read several times"):
        CalibrationClips.of(iter([torch.zeros(2, 100)]), several_passes=True)


def test_every_fifth_clip_is_held_out_for_any_batch_size():
    whole = is_held_out(0, 23)
    assert whole.nonzero().flatten().tolist() == [1, 6, 11, 16, 21]
    assert torch.equal(torch.cat([is_held_out(0, 8), is_held_out(8, 15)]), whole)


def test_calibration_rows_and_held_out_rows_are_disjoint():
    calibrating, evaluating = split_rows(23, 10, held_out=True)
    assert evaluating == [4, 9, 14, 19]
    assert len(calibrating) == 10 and not {*calibrating} & {*evaluating}
    assert split_rows(3, 10, held_out=False) == ([0, 1, 2], [])
