"""Arrays in memory that processes share."""

import multiprocessing

import numpy as np
import pytest

from epanns.data.shared_array import SharedArray


def count_up(array: SharedArray) -> None:
    array.values += np.arange(array.values.size, dtype=np.int16).reshape(array.values.shape)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_writes_to_the_same_memory(method):
    array = SharedArray((2, 3))
    array.values[:] = 10
    process = multiprocessing.get_context(method).Process(target=count_up, args=(array,))
    process.start()
    process.join()
    assert array.values.tolist() == [[10, 11, 12], [13, 14, 15]]


def test_values_outlive_the_file():
    values = SharedArray((4,), reserve=True).values
    values[:] = 7
    assert values.tolist() == [7] * 4
