"""`epanns models`: list the zoo and the released files."""

from dataclasses import asdict
from typing import Any

import click

from epanns.cli.command import EpannsCommand
from epanns.cli.options import json_option
from epanns.cli.terminal import emit


@click.command("models", cls=EpannsCommand)
@json_option
def command(as_json: bool) -> None:
    """List the networks of the zoo, with parameters and MACs for a clip of 10 s, and the released files."""
    from epanns.complexity.macs import profile
    from epanns.models.download import released_files
    from epanns.models.zoo import ZOO

    costs = [profile(spec, seconds=10.0) for spec in ZOO.values()]
    zoo = [
        {
            "name": cost.name,
            "sample_rate": cost.sample_rate,
            "n_params": cost.n_params,
            "backbone_macs": cost.backbone_macs,
            "clip_seconds": cost.clip_seconds,
        }
        for cost in costs
    ]
    released = [asdict(file) for file in released_files()]
    emit({"models": zoo, "released": released}, f"{_zoo_table(zoo)}\n\n{_released_table(released)}", as_json)


def _zoo_table(zoo: list[dict[str, Any]]) -> str:
    rows = [
        f"{row['name']:<24} {row['sample_rate']:>8} Hz {row['n_params']:>12,} {row['backbone_macs'] / 1e9:>8.3f} G"
        for row in zoo
    ]
    return "\n".join([f"{'network':<24} {'sample rate':>11} {'parameters':>12} {'MACs':>10}", *rows, _MACS_NOTE])


def _released_table(released: list[dict[str, Any]]) -> str:
    rows = [f"{row['name']:<41} {row['mAP']:>5.3f} {_megabytes(row['bytes']):>9}  {row['network']}" for row in released]
    return "\n".join([f"{'released file':<41} {'mAP':>5} {'size':>9}  read as", *rows, _RELEASED_NOTE])


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.1f} MB"


_MACS_NOTE = (
    "MACs: multiply-adds of convolutions, linear and recurrent layers for a clip of 10 s; `epanns profile` shows other "
    "counts."
)
_RELEASED_NOTE = "mAP as published. `epanns import NAME --out DIR` downloads a file and converts it to a checkpoint."
