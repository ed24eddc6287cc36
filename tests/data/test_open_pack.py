import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack import Pack, open_pack
from epanns.errors import PackError
from tests.data.conftest import SETTINGS
from tests.data.elsewhere import read_here


def test_a_pack_of_epanns_opens(made):
    source = open_pack(made / "pack")
    assert isinstance(source, Pack)
    waveform = np.empty(source.clip_samples, np.int16)
    assert source.read_into(3, waveform) == source.columns.n_samples[3]
    np.testing.assert_array_equal(waveform, source.read_waveform(3))


def test_a_single_shard_is_refused_and_its_folder_named(made):
    shard = made / "pack" / "shard-00000.h5"
    with pytest.raises(PackError, match=r"shard-00000\.h5: is one shard of a pack; name its folder .*/pack$"):
        open_pack(shard)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("logits", "target"),
            "holds 'logits', 'target', which is no pack; epanns reads a folder made by",
        ),
        ((), "holds nothing, which is no pack"),
        ("abcdef", "holds 6 objects, which is no pack"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path, names, message):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = [1]
    with pytest.raises(PackError, match=rf"x\.h5: {message}"):
        open_pack(path)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(PackError, match=r"x\.wav: file: .*; epanns reads a folder made by"):
        open_pack(path)


def test_a_path_that_is_no_pack_is_refused(made, tmp_path):
    with pytest.raises(PackError, match="no such pack"):
        open_pack(tmp_path / "nowhere")
    with pytest.raises(PackError, match="so it is no pack"):
        open_pack(tmp_path)
    shutil.copytree(made / "pack", tmp_path / "stopped")
    (tmp_path / "stopped" / "pack.json").unlink()
    with pytest.raises(PackError, match="packing was stopped before its end"):
        open_pack(tmp_path / "stopped")


def test_a_pack_in_pannss_format_holds_the_same_clips_and_names_its_classes(made, tmp_path):
    pack_manifest(made / "set.csv", tmp_path / "pack", replace(SETTINGS, format="panns"))
    ours, theirs = open_pack(made / "pack"), open_pack(tmp_path / "pack")
    assert read_here(theirs) == read_here(ours)
    assert theirs.columns.clip_ids.tolist() == ours.columns.clip_ids.tolist()
    assert theirs.columns.targets.equals(ours.columns.targets)
    assert (theirs.labels, theirs.sample_rate, theirs.dataset) == (ours.labels, ours.sample_rate, ours.dataset)
    assert read_here(open_pack(tmp_path / "pack" / "indexes" / "all.h5", labels=ours.labels)) == read_here(ours)
    with pytest.raises(PackError, match="its shards are in the format of panns; use open_pack"):
        Pack(tmp_path / "pack")


@pytest.mark.parametrize("format", ["epanns", "panns"])
def test_a_replaced_pack_is_read_again(made, tmp_path, format):
    """The files of the first pack are still open when those of the second replace them."""
    settings, pack = replace(SETTINGS, format=format), tmp_path / "pack"
    pack_manifest(made / "set.csv", pack, settings)
    read_here(open_pack(pack))
    pack_manifest(made / "set.csv", pack, replace(settings, seconds=0.25), fresh=True)
    pack_manifest(made / "set.csv", tmp_path / "elsewhere", replace(settings, seconds=0.25))
    assert read_here(open_pack(pack)) == read_here(open_pack(tmp_path / "elsewhere"))
