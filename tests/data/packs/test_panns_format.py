import re

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.data.packs.panns_file import clip_id_of, index_file, panns_name, write_index, write_waveform_file
from epanns.data.packs.shard import ShardRow

YOUTUBE_ID = st.text("abcXYZ019-_", min_size=11, max_size=11)


def rows(n, first=0, classes=5, samples=7):
    """Rows that all differ."""
    for number in range(first, first + n):
        waveform = np.arange(number, number + samples, dtype=np.int16)
        yield ShardRow(f"id-{number:08d}", waveform, samples, np.arange(classes) == number % classes, 0)


def write(path, n, most_rows, first=0, clip_id_bytes=11):
    return write_waveform_file(
        path, rows(n, first), most_rows=most_rows, clip_id_bytes=clip_id_bytes, sample_rate=8_000
    )


@given(YOUTUBE_ID)
def test_youtube_ids_are_named_as_panns_names_them(clip_id):
    assert panns_name(clip_id) == "Y" + clip_id + ".wav"
    assert clip_id_of(panns_name(clip_id)) == clip_id


@given(st.text(max_size=20) | YOUTUBE_ID)
def test_clip_ids_are_recovered_from_names(text):
    clip_id = clip_id_of(text)
    assert clip_id_of(panns_name(clip_id)) == clip_id


@pytest.mark.parametrize("clip_id", ["1-100032-A", "dog/bark.wav", "YabcdefghijkX.wav", "Yabc def ghi.wav", "ø" * 11])
def test_other_ids_are_unchanged(clip_id):
    assert panns_name(clip_id) == clip_id_of(clip_id) == clip_id


@pytest.mark.parametrize("n_rejected", [0, 1, 3])
def test_a_waveform_file_has_panns_types_and_no_empty_rows(tmp_path, n_rejected):
    n = 4 - n_rejected
    assert write(tmp_path / "part.h5", n, most_rows=4) == n
    with h5py.File(tmp_path / "part.h5") as file:
        assert set(file) == {"audio_name", "waveform", "target"}
        assert {name: (file[name].dtype, file[name].shape, file[name].chunks) for name in file} == {
            "audio_name": (np.dtype("S20"), (n,), None),
            "waveform": (np.dtype(np.int16), (n, 7), None),
            "target": (np.dtype(bool), (n, 5), None),
        }
        assert file.attrs["sample_rate"] == 8_000
        assert file.attrs["sample_rate"].dtype == np.int32
        for index, row in enumerate(rows(n)):
            assert file["audio_name"][index].decode() == f"Y{row.clip_id}.wav"
            np.testing.assert_array_equal(file["waveform"][index], row.waveform)
            np.testing.assert_array_equal(file["target"][index], row.target)


def test_no_file_is_written_without_rows(tmp_path):
    assert write(tmp_path / "part.h5", 0, most_rows=4) == 0
    assert not list(tmp_path.iterdir())


def test_longer_names_get_longer_strings(tmp_path):
    write(tmp_path / "part.h5", 1, most_rows=1, clip_id_bytes=33)
    with h5py.File(tmp_path / "part.h5") as file:
        assert file["audio_name"].dtype == np.dtype("S33")


def test_an_index_refers_to_every_row(tmp_path):
    files = [tmp_path / f"part{number:05d}.h5" for number in range(2)]
    write(files[0], 3, most_rows=4)
    write(files[1], 2, most_rows=2, first=3)
    write_index(tmp_path / "all.h5", files)
    with h5py.File(tmp_path / "all.h5") as index:
        assert {name: (index[name].dtype, index[name].shape) for name in index} == {
            "audio_name": (np.dtype("S20"), (5,)),
            "target": (np.dtype(bool), (5, 5)),
            "hdf5_path": (np.dtype("S200"), (5,)),
            "index_in_hdf5": (np.dtype(np.int32), (5,)),
        }
        for number, row in enumerate(rows(5)):
            assert index["hdf5_path"][number].decode().startswith("/")
            with h5py.File(index["hdf5_path"][number].decode()) as file:
                place = index["index_in_hdf5"][number]
                np.testing.assert_array_equal(file["waveform"][place], row.waveform)
                assert file["audio_name"][place] == index["audio_name"][number]
                np.testing.assert_array_equal(file["target"][place], index["target"][number])


def test_a_long_path_is_kept_whole(tmp_path):
    path = tmp_path / ("x" * 120) / ("y" * 120) / "part00000.h5"
    path.parent.mkdir(parents=True)
    write(path, 1, most_rows=1)
    write_index(tmp_path / "all.h5", [path])
    with h5py.File(tmp_path / "all.h5") as index:
        assert index["hdf5_path"][0].decode() == str(path)


@pytest.mark.parametrize(
    ("splits", "name"),
    [((), "all"), (("train",), "train"), (("fold1", "fold2"), "fold1+fold2"), (("../etc",), "___etc")],
)
def test_an_index_is_named_after_its_splits(splits, name):
    assert index_file(splits) == f"indexes/{name}.h5"


@given(st.lists(st.text(), max_size=8) | st.sampled_from([["s" * 300], ["../x", "/etc"], ["ä" * 120], [".."]]))
def test_any_split_names_give_one_file_in_the_index_folder(splits):
    folder, _, name = index_file(splits).partition("/")
    assert folder == "indexes"
    assert re.fullmatch(r"[\w+-]+\.h5", name)
    assert len(f"{name}.partial".encode()) <= 255
