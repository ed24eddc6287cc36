"""Rate of reading and checksumming random clips in one process, compared with opening the file for every clip.

    python benchmarks/read_random.py [--clips 500] [--reads 500] [--repeats 9]

The peer uses PANNs' layout (contiguous, no checksum) and reads what PANNs' data set class reads: name, int16 waveform
and target. The headline leaves out its conversion of the waveform to float32, because epanns converts on the device.
With the conversion, as in PANNs' loader, the peer is slower; this ratio is recorded too.
"""

import argparse
import tempfile
from pathlib import Path

import h5py
import numpy as np
import record

from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.any_pack import AnyPack
from epanns.data.packs.pack import open_pack
from epanns.data.packs.pack_format import PackSettings


def main() -> None:
    """Write the same clips in both layouts, read them alternately, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--reads", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = SyntheticSettings(clips=arguments.clips, seconds=10.0, sample_rate=32_000)
        write_manifest(make_synthetic(folder / "set", settings), folder / "set.csv")
        pack_manifest(folder / "set.csv", folder / "pack", PackSettings(clips_per_shard=200))
        pack = open_pack(folder / "pack")
        panns = folder / "panns.h5"
        write_as_panns(panns, pack)
        order = np.random.default_rng(0).integers(0, len(pack), arguments.reads).tolist()
        read_ours(pack, order)
        read_panns(panns, order, to_float=False)
        result = {
            "int16": record.rates_in_turn(
                lambda: read_ours(pack, order), lambda: read_panns(panns, order, to_float=False), arguments.repeats
            ),
            "peer_to_float32": record.rates_in_turn(
                lambda: read_ours(pack, order), lambda: read_panns(panns, order, to_float=True), arguments.repeats
            ),
        }
    ratios, with_float = result["int16"]["ratio"], result["peer_to_float32"]["ratio"]
    result["headline"] = (
        f"{record.ratio_text(ratios)}; against the peer with its conversion to float32 {record.ratio_text(with_float)}"
    )
    record.save(
        "read_random",
        what=f"random 10 s clips at 32 kHz (int16) of {arguments.clips} read and checksummed, one process, warm cache",
        against="h5py.File opened for every clip, contiguous int16, as PANNs' loader does",
        target=">= 1 x while verifying",
        met=ratios["median"] >= 1.0,
        result=result,
    )


def write_as_panns(path: Path, pack: AnyPack) -> None:
    """Write the clips of a pack in PANNs' layout."""
    columns = pack.columns
    with h5py.File(path, "w") as file:
        file.create_dataset("audio_name", data=columns.clip_ids.astype("S20"))
        file.create_dataset("target", data=columns.targets.dense())
        waveforms = file.create_dataset("waveform", (len(pack), pack.clip_samples), np.int16)
        row = np.empty(pack.clip_samples, np.int16)
        for index in range(len(pack)):
            pack.read_into(index, row)
            waveforms[index] = row


def read_ours(pack: AnyPack, order: list[int]) -> int:
    """Read clips into a row of a batch and compare each with its checksum."""
    row = np.empty(pack.clip_samples, np.int16)
    for index in order:
        pack.read_into(index, row)
    return len(order)


def read_panns(path: Path, order: list[int], *, to_float: bool) -> int:
    """Read clips from a file that is opened for every clip."""
    for index in order:
        with h5py.File(path, "r") as file:
            file["audio_name"][index].decode()
            waveform = file["waveform"][index]
            if to_float:
                waveform = (waveform / 32767.0).astype(np.float32)
            file["target"][index].astype(np.float32)
    return len(order)


if __name__ == "__main__":
    main()
