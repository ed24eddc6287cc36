from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from epanns.data.packs.safe_hdf5 import row_chunks, storage_problem

CHUNK, FILE = 20, 1000


class Waveforms:
    """A dataset with given chunks: (row, column, offset, size, filter mask) each."""

    def __init__(self, *chunks):
        self.chunks = chunks
        self.id = SimpleNamespace(chunk_iter=self.visit)

    def __len__(self):
        return 3

    def visit(self, callback):
        for row, column, offset, size, mask in self.chunks:
            callback(h5py.h5d.StoreInfo((row, column), mask, offset, size))


def test_offsets_are_in_the_order_of_the_rows():
    chunks = [(2, 0, 100, CHUNK, 0), (0, 0, 980, CHUNK, 0), (1, 0, 80, CHUNK, 0)]
    assert row_chunks(Waveforms(*chunks), CHUNK, FILE).tolist() == [980, 80, 100]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ((2, 0, 200, CHUNK, 1), "must have 3 chunks of 20 bytes"),
        ((2, 0, 200, CHUNK - 1, 0), "must have 3 chunks of 20 bytes"),
        ((1, 0, 200, CHUNK, 0), "not one row each"),
        ((2, 5, 200, CHUNK, 0), "not one row each"),
        ((2, 0, FILE - CHUNK + 1, CHUNK, 0), "outside the file of 1000 bytes"),
        ((2, 0, 0, CHUNK, 0), "outside the file"),
        ((2, 0, 100 + CHUNK - 1, CHUNK, 0), "rows that overlap"),
    ],
)
def test_impossible_offsets_are_refused(last, message):
    chunks = [(0, 0, 100, CHUNK, 0), (1, 0, 300, CHUNK, 0), last]
    with pytest.raises(ValueError, match=message):
        row_chunks(Waveforms(*chunks), CHUNK, FILE)


def test_a_missing_chunk_is_refused():
    with pytest.raises(ValueError, match="must have 3 chunks"):
        row_chunks(Waveforms((0, 0, 100, CHUNK, 0), (1, 0, 300, CHUNK, 0)), CHUNK, FILE)


def test_offsets_are_those_of_hdf5(tmp_path):
    path = tmp_path / "x.h5"
    values = np.arange(12, dtype=np.int16).reshape(4, 3)
    with h5py.File(path, "w") as file:
        file.create_dataset("waveform", data=values, chunks=(1, 3), fletcher32=True)
    with h5py.File(path) as file:
        places = row_chunks(file["waveform"], 2 * 3 + 4, path.stat().st_size)
    content = path.read_bytes()
    read = [np.frombuffer(content[place : place + 6], np.int16).tolist() for place in places]
    assert read == values.tolist()


@pytest.mark.parametrize(("stored", "problem"), [(1000, "stores 1200000 bytes in 1000"), (1100, None)])
def test_an_impossible_compression_ratio_is_refused(tmp_path, stored, problem):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        packed = file.create_dataset("x", (1_200_000,), np.int8, chunks=(1_200_000,), compression="gzip")
        packed.id.write_direct_chunk((0,), bytes(stored))
        found = storage_problem(packed, 1 << 20)
    assert found is None if problem is None else found.startswith(problem)
