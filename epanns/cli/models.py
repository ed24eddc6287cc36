"""`epanns models`: list the zoo, the released files and the included checkpoints."""

from dataclasses import asdict
from typing import Any

import click

from epanns.cli.shared.options import EpannsCommand, json_option
from epanns.cli.shared.terminal import emit


@click.command("models", cls=EpannsCommand)
@json_option
def command(as_json: bool) -> None:
    """List the zoo, with parameters and MACs for a clip of 10 s, the released files, and the included checkpoints."""
    from epanns.complexity.macs import profile
    from epanns.models.files.download import released_files
    from epanns.models.files.included import included_networks
    from epanns.models.zoo import ZOO

    costs = [profile(spec, seconds=10.0) for spec in ZOO.values()]
    zoo: list[dict[str, Any]] = [
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
    lines = [f"{'network':<24} {'sample rate':>11} {'parameters':>12} {'MACs':>10}"]
    lines += [
        f"{row['name']:<24} {row['sample_rate']:>8} Hz {row['n_params']:>12,} {row['backbone_macs'] / 1e9:>8.3f} G"
        for row in zoo
    ]
    lines += [
        "MACs: multiply-adds of convolutions, linear and recurrent layers for a clip of 10 s; `epanns profile` shows "
        "other counts.",
        "",
        f"{'released file':<41} {'mAP':>5} {'size':>9}  read as",
    ]
    for file in released:
        size = "unknown" if file["bytes"] is None else f"{file['bytes'] / 1e6:,.1f} MB"
        lines.append(f"{file['name']:<41} {file['mAP']:>5.3f} {size:>9}  {file['network']}")
    lines.append("mAP as published. `epanns import NAME --out DIR` downloads a file and converts it to a checkpoint.")
    included = [asdict(network) for network in included_networks()]
    lines += ["", f"{'included':<24} {'sample rate':>11} {'parameters':>12} {'MACs':>10} {'mAP':>6}  classes, licence"]
    lines += [
        f"{row['name']:<24} {row['sample_rate']:>8} Hz {row['n_params']:>12,} {row['backbone_macs'] / 1e9:>8.3f} G "
        f"{row['mAP']:>6.3f}  {row['classes']}, {row['licence']}"
        for row in included
    ]
    lines.append("Commands and epanns.load accept these names in place of a path. mAP on clips that trained nothing.")
    emit({"models": zoo, "released": released, "included": included}, "\n".join(lines), as_json)
