import numpy as np
import pytest
import torch

from epanns.data.batches.crop import Crop
from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.batches.sampler import StepBatches, make_stream, sequential_batches
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack import Pack
from epanns.data.packs.pack_format import PackSettings
from epanns.errors import PackError


@pytest.fixture
def dataset(made):
    return PackDataset([made / "pack"])


def packed(made, folder, **change):
    settings = {"sample_rate": 8_000, "seconds": 0.5, **change}
    pack_manifest(made / "set.csv", folder, PackSettings(**settings))
    return folder


def test_a_dataset_has_the_ids_classes_and_sizes_of_its_pack(made, dataset):
    assert len(dataset) == 20
    assert (dataset.sample_rate, dataset.clip_samples, dataset.clip_seconds) == (8_000, 4_000, 0.5)
    assert dataset.dataset_name == "synthetic"
    assert dataset.targets.dense().shape == (20, 4)
    assert len(dataset.digest) == 64
    assert dataset.clip_ids.tolist() == Pack(made / "pack").columns.clip_ids.tolist()


def test_a_batch_has_the_requested_clips_in_order(made, dataset):
    (batch,) = make_loader(dataset, [[17, 0, 8]])
    assert batch.clip_ids == ("clip-000017.wav", "clip-000000.wav", "clip-000008.wav")
    assert (batch.waveform.dtype, batch.n_samples.dtype, batch.target.dtype) == (torch.int16, torch.int32, torch.bool)
    pack = Pack(made / "pack")
    np.testing.assert_array_equal(batch.waveform.numpy(), [pack.read_waveform(index) for index in (17, 0, 8)])
    np.testing.assert_array_equal(batch.target.numpy(), dataset.targets.dense([17, 0, 8]))
    assert batch.n_samples.tolist() == [4_000] * 3


def test_int16_becomes_float_on_the_device(dataset):
    batch = dataset[3].to("cpu")
    np.testing.assert_array_equal(
        batch.float_waveform().numpy(), batch.waveform.numpy().astype(np.float32) / np.float32(32_767)
    )
    assert batch.float_target().tolist() == [[float(value) for value in dataset.targets.dense([3])[0]]]
    assert len(batch) == 1


@pytest.mark.parametrize(
    ("start_method", "crop"),
    [("fork", None), ("fork", Crop(0.2)), ("spawn", Crop(0.2)), ("forkserver", Crop(0.2))],
)
def test_workers_give_the_same_batches_with_every_start_method(dataset, start_method, crop):
    dataset = dataset.with_crop(crop)
    batches = StepBatches(make_stream("shuffled", dataset.targets, 1), batch_size=6, last_step=9)
    alone = list(make_loader(dataset, batches))  # opens the files in this process too
    together = list(make_loader(dataset, batches, workers=2, start_method=start_method))
    assert [batch.clip_ids for batch in together] == [batch.clip_ids for batch in alone]
    for ours, theirs in zip(alone, together, strict=True):
        assert torch.equal(ours.waveform, theirs.waveform)
        assert torch.equal(ours.target, theirs.target)
        assert torch.equal(ours.n_samples, theirs.n_samples)


def test_loading_draws_nothing_from_the_global_generator(dataset):
    before = torch.random.get_rng_state()
    list(make_loader(dataset, sequential_batches(len(dataset), 7)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_several_packs_join_in_the_order_given(made, tmp_path):
    splits = [packed(made, tmp_path / split, splits=(split,)) for split in ("val", "test")]
    joined = PackDataset(splits)
    alone = [PackDataset([path]) for path in splits]
    assert joined.clip_ids.tolist() == alone[0].clip_ids.tolist() + alone[1].clip_ids.tolist()
    np.testing.assert_array_equal(joined.targets.dense(), np.concatenate([part.targets.dense() for part in alone]))
    assert torch.equal(joined[5].waveform, alone[1][1].waveform)
    assert joined.digest not in {alone[0].digest, alone[1].digest}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 16_000}, "cannot be joined: sample_rate 8000 and 16000; pack both with the same"),
        ({"seconds": 0.25}, "cannot be joined: clip_samples 4000 and 2000"),
    ],
)
def test_packs_that_differ_are_not_joined(made, tmp_path, change, message):
    other = packed(made, tmp_path / "other", **change)
    with pytest.raises(PackError, match=f"{made / 'pack'} and {other} {message}"):
        PackDataset([made / "pack", other])


def test_packs_that_share_clips_are_not_joined(made, tmp_path):
    with pytest.raises(PackError, match=r"share clips, 'clip-0000.*; join packs of different"):
        PackDataset([made / "pack", packed(made, tmp_path / "val", splits=("val",))])


def test_no_pack_is_an_error():
    with pytest.raises(PackError, match="no pack was given; name at least one folder"):
        PackDataset([])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_clip_is_one_error_when_it_is_read(own, workers):
    dataset = PackDataset([own / "pack"])
    shard = own / "pack" / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    waveform = dataset[0].waveform.numpy().tobytes()
    content[content.index(waveform) + 100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(PackError, match=r"^clip 'clip-000000\.wav': .*shard-00000\.h5: waveform row 0.*$"):
        list(make_loader(PackDataset([own / "pack"]), [[3, 0]], workers=workers))
