import numpy as np
import pytest

from epanns.data.opening import open_pack
from epanns.data.pack import Pack
from epanns.errors import PackError


def test_a_pack_of_ours_opens(made):
    source = open_pack(made / "pack")
    assert isinstance(source, Pack)
    waveform = np.empty(source.clip_samples, np.int16)
    assert source.read_into(3, waveform) == source.columns.n_samples[3]
    np.testing.assert_array_equal(waveform, source.read_waveform(3))


def test_what_is_no_pack_is_refused(tmp_path):
    with pytest.raises(PackError, match="so it is no pack"):
        open_pack(tmp_path)
