"""Windows of a recording that arrives in blocks."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.evaluation.protocol import cut_windows, windows_of


def window_starts(n_samples, window, hop):
    """The slow twin: starts of the windows of a recording whose length is known."""
    starts = list(range(0, max(1, n_samples - window + 1), hop))
    return starts if starts[-1] + window >= n_samples else [*starts, n_samples - window]


def starts_of(n_samples, window, hop):
    return [start for start, _ in windows_of([torch.arange(n_samples)], window, hop)]


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60))
def test_windows_cover_every_sample_and_stay_inside(n_samples, window, hop):
    hop = min(hop, window)
    starts = starts_of(n_samples, window, hop)
    covered = {sample for start in starts for sample in range(start, start + min(window, n_samples))}
    assert covered == set(range(n_samples))
    assert starts == sorted(set(starts))
    assert all(start % hop == 0 for start in starts[:-1])


@given(st.lists(st.integers(0, 90), min_size=1), st.integers(1, 80), st.integers(1, 200))
def test_blocks_give_the_windows_of_the_whole_recording(sizes, window, hop):
    whole = torch.arange(sum(sizes))
    found = list(windows_of(torch.split(whole, sizes), window, hop))
    expected = window_starts(len(whole), window, hop) if len(whole) else []
    assert [start for start, _ in found] == expected
    for start, piece in found:
        assert torch.equal(piece, whole[start : start + window])


def test_no_more_than_a_window_and_a_block_is_kept():
    """Of each window and of what is kept the storage counts, not the view."""
    for window, hop in ((100, 10), (100, 100), (100, 5_000)):
        largest = max(piece.untyped_storage().nbytes() for _, piece in windows_of(torch.zeros(500, 40), window, hop))
        assert largest <= 4 * (window + 2 * 40)


def test_tail_is_covered_by_a_window_shifted_back():
    assert starts_of(10, 4, 2) == [0, 2, 4, 6]
    assert starts_of(11, 4, 2) == [0, 2, 4, 6, 7]
    assert starts_of(4, 4, 4) == [0]


def test_short_clip_is_repeated_up_to_the_window():
    assert cut_windows(torch.tensor([1, 2, 3]), 7, 2).tolist() == [[1, 2, 3, 1, 2, 3, 1]]
