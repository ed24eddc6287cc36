import gc
import multiprocessing
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.data.batches.crop import Crop
from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.loader import SharedRows, make_loader
from epanns.data.batches.sampler import StepBatches, make_stream
from epanns.errors import PackError


@given(st.lists(st.sampled_from(["lend", "drop", "view"]), max_size=30))
def test_a_slot_is_lent_again_when_no_tensor_refers_to_it(actions):
    shared, held = SharedRows(3, 2, 5), []  # what was written, and a tensor that looks at it
    for number, action in enumerate(actions):
        if action == "lend":
            slot = shared.lend(2)
            assert (slot is None) == (len(held) == 3)
            if slot is not None:
                shared.rows_of(slot, 2)[:] = number
                held.append((number, shared.hand_over(slot, 2)))
        elif held:
            written, tensor = held.pop(0)
            held += [(written, tensor[:1, :3])] if action == "view" else []
            del tensor
        assert all(tensor.eq(written).all() for written, tensor in held)
    assert shared.lend(3) is None  # too long for any


def test_a_kept_batch_does_not_change(tiny_packs):
    dataset = PackDataset([tiny_packs["train"]], crop=Crop(0.3))
    batches = list(StepBatches(make_stream("shuffled", dataset.targets, 0), batch_size=7, last_step=25))
    batches += [[3], list(range(30))]  # shorter and longer than the first
    alone = list(make_loader(dataset, batches))
    views = [batch.waveform[2:].numpy() for batch in make_loader(dataset, batches, workers=2)]
    gc.collect()
    for expected, view in zip(alone, views, strict=True):
        assert torch.equal(torch.from_numpy(view), expected.waveform[2:])
    for expected, batch in zip(alone, make_loader(dataset, batches, workers=1), strict=True):
        assert torch.equal(batch.waveform, expected.waveform)
        assert torch.equal(batch.target, expected.target)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_batches_give_an_empty_loader(tiny_packs, workers):
    assert list(make_loader(PackDataset([tiny_packs["train"]]), [], workers=workers)) == []


def traces():
    """Whether memory for batches is mapped, and whether its file is open."""
    files = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [
        any("memfd:epanns" in text for text in found)
        for found in (Path("/proc/self/maps").read_text().splitlines(), files)
    ]


def test_shared_memory_is_freed_with_its_last_batch():
    shared = SharedRows(2, 3, 4)
    tensor = shared.hand_over(shared.lend(3), 3)
    del shared
    assert traces() == [True, True]
    assert tensor.eq(0).all()
    del tensor
    assert traces() == [False, False]


def test_a_killed_worker_is_one_error(tiny_packs):
    dataset = PackDataset([tiny_packs["train"]])
    others = set(multiprocessing.active_children())
    batches = make_loader(dataset, ([index % len(dataset)] for index in range(10_000)), workers=2)
    next(batches)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    workers.copy().pop().kill()
    with pytest.raises(PackError, match="a process that reads clips died, .*: run the same command again"):
        for _ in batches:
            pass
    for worker in workers:
        worker.join(timeout=30)
        assert not worker.is_alive()
