"""Builders for tests: small networks, checkpoints, packs, run records, finished runs, and command lines."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from epanns.audio.frontend import FrontEndSpec
from epanns.complexity.latency import Latency
from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.spec import ModelSpec, conv_widths
from epanns.models.tagger import Tagger
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.budgets.latency_budget import Timing
from epanns.records import RunRecord, Stage
from epanns.training.metrics import write_metrics

# Files


def contents(folder: Path, *, without: str = "a^") -> dict[str, bytes]:
    """The bytes of all files below a folder, by relative name; names that match a regular expression are left out."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not re.search(without, name)}


# Networks


def tiny_spec() -> ModelSpec:
    """Return Cnn14's shape with 4 to 12 channels, 8 kHz and 4 classes, which fits `tiny_packs`."""
    front_end = FrontEndSpec(sample_rate=8_000, window_size=256, hop_size=80, mel_bins=64, fmin=50, fmax=4_000)
    return replace(
        ZOO["Cnn14"], front_end=front_end, widths=conv_widths(4, 4, 6, 8, 10, 12), embedding_size=16, num_classes=4
    )


def narrow_spec(**changes: object) -> ModelSpec:
    """Return a small Cnn14: twelve convolutions, five poolings, another width in every block, 5 classes."""
    values = {
        "name": "narrow",
        "family": "cnn",
        "front_end": FrontEndSpec(8_000, 256, 80, 32, 50, 4_000),
        "widths": conv_widths(4, 6, 8, 10, 12, 14),
        "embedding_size": 9,
        "num_classes": 5,
    }
    return ModelSpec(**(values | changes))


def make_network(
    spec: ModelSpec | str | None = None,
    labels: LabelSet | Path | None = None,
    *,
    seed: int | None = None,
    **options: Any,
) -> Tagger:
    """Return a network in evaluation mode.

    Args:
        spec: The architecture, or its name in the zoo; by default `tiny_spec`.
        labels: The classes, or a pack with the classes.
        seed: Seed of the weights; None for the present state of torch's generator.
        **options: Of `build_model`, such as ``width``.
    """
    if seed is not None:
        torch.manual_seed(seed)
    if isinstance(labels, Path):
        labels = PackDataset([labels]).labels
    return build_model(spec or tiny_spec(), labels=labels, **options).eval()


def random_waveforms(*sizes: int, samples: int = 5_600, seed: int = 2) -> list[Tensor]:
    """Return batches of uniform noise in [-0.5, 0.5), each ``(size, samples)``; 5,600 samples are 0.7 s at 8 kHz."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, samples, generator=generator) - 0.5 for size in sizes]


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters and buffers of a network."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_tensors(one: nn.Module | Mapping[str, Tensor], other: nn.Module | Mapping[str, Tensor]) -> bool:
    """Return whether two networks, or copies of their tensors, are equal bit for bit."""
    first, second = (each.state_dict() if isinstance(each, nn.Module) else each for each in (one, other))
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def make_checkpoint(
    folder: Path, spec: ModelSpec | str | None = None, labels: LabelSet | Path | None = None, **options: Any
) -> Path:
    """Save the network of `make_network` as a checkpoint; return its folder."""
    save_checkpoint(make_network(spec, labels, **options), folder)
    return folder


def parameter_clock() -> Timing:
    """Return a clock by which a network takes a millisecond per hundred parameters, and its layers as long together."""

    def network(model: Tagger) -> Latency:
        milliseconds = profile(model).n_params / 100
        return Latency(milliseconds, milliseconds, milliseconds, 2, "a clock", "float32")

    def part(run: object, example: object) -> float:
        return sum(weight.numel() for weight in run.parameters()) / 100 if isinstance(run, torch.nn.Module) else 0.0

    return Timing(part, network)


# Packs


def make_manifest(
    folder: Path, *, clips: int = 5, classes: int = 2, seconds: float = 0.5, sample_rate: int = 8_000
) -> Path:
    """Write generated clips and their manifest; return the manifest."""
    settings = SyntheticSettings(clips=clips, classes=classes, seconds=seconds, sample_rate=sample_rate)
    write_manifest(make_synthetic(folder / "audio", settings), folder / "manifest.csv")
    return folder / "manifest.csv"


def make_pack(manifest: Path, folder: Path, *splits: str, sample_rate: int = 8_000) -> Path:
    """Pack splits of a manifest, by default all, as rows of half a second; return the folder."""
    pack_manifest(manifest, folder, PackSettings(splits=splits, sample_rate=sample_rate, seconds=0.5))
    return folder


def make_packs(manifest: Path, *, sample_rate: int = 8_000) -> dict[str, Path]:
    """Pack the splits train, val and test of a manifest in its folder; return the packs."""
    splits = ("train", "val", "test")
    return {split: make_pack(manifest, manifest.parent / split, split, sample_rate=sample_rate) for split in splits}


# Records and runs

BLOCKS = ("conv_block4", "conv_block5", "conv_block6")
_COSTS = {0.0: (5_000_000, 1_200_000_000), 0.25: (3_000_000, 900_000_000), 0.5: (1_500_000, 750_000_000)}


def cost(ratio: float) -> dict[str, int]:
    """Return the cost of a network with a fraction of 0, 0.25 or 0.5 of its channels removed."""
    n_params, macs = _COSTS[ratio]
    return {"n_params": n_params, "param_bytes": 4 * n_params, "backbone_macs": macs}


def make_stage(name: str, test: float, val: float = 0.9) -> Stage:
    """Return a stage of a record with the mAP on two splits."""
    return Stage(name, {"val": {"mAP": val}, "test": {"mAP": test, "mAUC": 0.9, "d_prime": None}}, 1.0)


def make_record(
    trial_id: str,
    seed: int,
    stages: Sequence[Stage],
    *,
    ratio: float | None = None,
    criterion: str | None = None,
    **changes: Any,
) -> RunRecord:
    """Return the record of a trial on ESC-10."""
    record = RunRecord(
        trial_id=trial_id,
        experiment="esc10",
        model="Cnn14",
        width=0.25,
        criterion=criterion,
        layers=BLOCKS if criterion else (),
        ratio=ratio,
        recover="none",
        finetune_iterations=0,
        seed=seed,
        dataset="ESC-10",
        protocol="whole clip",
        clip_seconds=5.0,
        config={"kind": "pruned", "base": {"kind": "base", "seed": seed}, "seed": seed},
        plan_digest=None,
        cost_before=cost(0.0),
        cost_after=cost(ratio or 0.0),
        stages=stages,
        device="cpu",
        versions={},
        seconds=2.0,
    )
    return replace(record, **changes)


def make_finished_run(
    folder: Path, scores: Mapping[str, Sequence[float]], *, network: str = "Cnn14", activation: str = "sigmoid"
) -> Path:
    """Write the files of a training run that its learning curve is read from; return its folder.

    Args:
        folder: The folder.
        scores: Name of a score -> its values at the steps 0, 10, 20 and 30.
        network: Name of the network.
        activation: ``sigmoid`` or ``softmax``.
    """
    losses = (math.nan, 0.5, 0.25, 0.2)
    rows = [
        {"step": 10.0 * index, "loss": loss} | {name: values[index] for name, values in scores.items()}
        for index, loss in enumerate(losses)
    ]
    write_metrics(folder, rows)
    model = {"name": network, "activation": activation}
    (folder / "training.json").write_text(json.dumps({"asked": {"model": model}}))
    return folder


# Command lines


def output_of(command: click.Command, *arguments: object) -> str:
    """Run a command that must succeed; return its stdout. Exceptions are not turned into messages."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout
