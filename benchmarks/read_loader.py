"""Rate of loading batches with worker processes, compared with PANNs' data set and collate logic on the same clips.

    python benchmarks/read_loader.py [--clips 500] [--batches 40] [--repeats 7] [--workers 2]

Both sides read the same clips in the same random order, in batches of 32. The peer is a reimplementation of
audioset_tagging_cnn `utils/data_generator.py` (the file is opened for every clip, int16 / 32767 to float32, batches are
dictionaries of NumPy arrays). The batches of epanns are int16, which the training step converts on the device; the rate
with conversion to float32 in the main process is recorded as well. Both sides deliver the input of the training step;
the batches are compared before the measurement.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import record
import torch
from numpy.typing import NDArray
from read_random import write_as_panns
from torch.utils.data import DataLoader

from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings

BATCH_SIZE = 32
Meta = dict[str, Any]


def main() -> None:
    """Write the same clips in both layouts, read batches alternately, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = SyntheticSettings(clips=arguments.clips, seconds=arguments.seconds, sample_rate=32_000)
        write_manifest(make_synthetic(folder / "set", settings), folder / "set.csv")
        pack_manifest(folder / "set.csv", folder / "pack", PackSettings(seconds=arguments.seconds, clips_per_shard=200))
        dataset, panns = PackDataset([folder / "pack"]), folder / "panns.h5"
        write_as_panns(panns, dataset.sources[0])
        order = np.random.default_rng(0).integers(0, len(dataset), (arguments.batches, BATCH_SIZE)).tolist()
        compare(our_batches(dataset, order[:3], arguments.workers), panns_batches(panns, order[:3], arguments.workers))

        def ours(*, to_float: bool = False) -> int:
            clips = 0
            for waveform, target in our_batches(dataset, order, arguments.workers, to_float=to_float):
                clips += len(waveform) and len(target)
            return clips

        def peer() -> int:
            return sum(len(batch["waveform"]) for batch in panns_batches(panns, order, arguments.workers))

        result: dict[str, Any] = {
            "int16": record.rates_in_turn(ours, peer, arguments.repeats),
            "to_float32": record.rates_in_turn(lambda: ours(to_float=True), peer, arguments.repeats),
        }
    ratios, with_float = result["int16"]["ratio"], result["to_float32"]["ratio"]
    result["headline"] = (
        f"{record.ratio_text(with_float)} with our conversion to float32, {record.ratio_text(ratios)} up to int16"
    )
    record.save(
        "read_loader",
        what=f"random {arguments.seconds:g} s clips at 32 kHz of {arguments.clips}, int16 batches of {BATCH_SIZE}, "
        f"through torch's DataLoader with {arguments.workers} workers, every clip checksummed",
        against="PANNs' data set and collate logic on the same clips in their layout, float32",
        target=">= 2 x",
        met=min(ratios["median"], with_float["median"]) >= 2.0,
        result=result,
    )


def our_batches(
    dataset: PackDataset, order: list[list[int]], workers: int, *, to_float: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield waveforms and targets as the training step receives them, or converted to float32."""
    for batch in make_loader(dataset, order, workers=workers):
        yield (batch.float_waveform(), batch.float_target()) if to_float else (batch.waveform, batch.target)


class PannsDataset:
    """Data set of clips by file and index; the file is opened for every clip."""

    def __getitem__(self, meta: Meta) -> dict[str, Any]:
        with h5py.File(meta["hdf5_path"], "r") as file:
            row = meta["index_in_hdf5"]
            return {
                "audio_name": file["audio_name"][row].decode(),
                "waveform": (file["waveform"][row] / 32767.0).astype(np.float32),
                "target": file["target"][row].astype(np.float32),
            }


def as_arrays(clips: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Collate clips into a batch: one array per key."""
    return {key: np.array([clip[key] for clip in clips]) for key in clips[0]}


def panns_batches(path: Path, order: list[list[int]], workers: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches as PANNs' training loop receives them."""
    metas = [[{"hdf5_path": str(path), "index_in_hdf5": index} for index in batch] for batch in order]
    yield from DataLoader(
        PannsDataset(),  # type: ignore[arg-type]  # PANNs' class is not a torch data set either
        batch_sampler=metas,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=as_arrays,
        pin_memory=False,
    )


def compare(ours: Iterator[tuple[torch.Tensor, torch.Tensor]], peer: Iterator[dict[str, NDArray[Any]]]) -> None:
    """Check that both sides deliver the same clips."""
    for (waveform, target), batch in zip(ours, peer, strict=True):
        np.testing.assert_array_equal(waveform.numpy() / np.float32(32767), batch["waveform"])
        np.testing.assert_array_equal(target.numpy(), batch["target"] > 0)


if __name__ == "__main__":
    main()
