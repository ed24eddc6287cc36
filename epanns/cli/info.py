"""`epanns info`: show the contents and the origin of a checkpoint or a released file."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.doctor import core_packages, version_lines
from epanns.cli.shared.options import CHECKPOINT, EpannsCommand, json_option
from epanns.cli.shared.terminal import emit, log
from epanns.safe_text import printable

if TYPE_CHECKING:
    from epanns.models.provenance import Provenance

_LISTED_LABELS = 6


@click.command("info", cls=EpannsCommand)
@click.argument("checkpoint", type=CHECKPOINT, required=False)
@click.option("--sample-rate", type=int, help="Sample rate in Hz, for a released file without front end.")
@click.option("--versions", is_flag=True, help="Show the versions of epanns and its packages instead of a CHECKPOINT.")
@json_option
def command(checkpoint: Path | None, sample_rate: int | None, versions: bool, as_json: bool) -> None:
    """Show architecture, widths, labels, provenance and plan of CHECKPOINT.

    CHECKPOINT is a folder, a .pth/.pt file of PANNs or E-PANNs, or the name of an included network.
    """
    if versions == (checkpoint is not None):
        raise click.UsageError("give either CHECKPOINT or --versions")
    if checkpoint is None:
        packages = core_packages()
        emit({"core": [asdict(package) for package in packages]}, "\n".join(version_lines(packages)), as_json)
        return
    from epanns.models.files.load import read_checkpoint

    found = read_checkpoint(checkpoint, sample_rate=sample_rate)
    for assumption in found.provenance.assumed:
        log(f"{checkpoint}: {assumption}")
    result = {"path": str(checkpoint), **found.summary()}
    emit(result, describe(result, found.provenance), as_json)


def describe(summary: Mapping[str, Any], provenance: "Provenance") -> str:
    """Return the summary and the provenance of a checkpoint as lines of text.

    Control characters in names that come from the checkpoint are escaped.
    """
    from epanns.models.spec import WAVEFORM_FAMILIES

    front_end, labels = summary["front_end"], summary["labels"]
    kind = "YAMNet's, " if front_end.get("kind") == "yamnet" else ""
    of_front_end = (
        "none: the network reads the waveform"
        if summary["family"] in WAVEFORM_FAMILIES
        else f"{kind}window {front_end['window_size']}, hop {front_end['hop_size']}, {front_end['mel_bins']} mel bins, "
        f"{front_end['fmin']:g} to {front_end['fmax']:g} Hz"
    )
    listed = "; ".join(map(printable, labels[:_LISTED_LABELS]))
    rest = len(labels) - _LISTED_LABELS
    versions = ", ".join(f"{name} {version}" for name, version in (provenance.versions or {}).items())
    kernels = f"{summary['kernel_size']}x{summary['kernel_size']} kernels, " if summary["family"] == "cnn" else ""
    # Block by block; ``resnet.layer1`` and ``features.1`` are blocks too.
    blocks = groupby(summary["widths"].items(), key=lambda item: ".".join(item[0].split(".")[:-1][:2]) or item[0])
    operations = [f"{number}. {printable(done.describe())}" for number, done in enumerate(provenance.recipe, start=1)]
    rows = {
        "network": f"{printable(summary['name'])}, family {summary['family']}, head {summary['head']}, "
        f"{kernels}embedding {summary['embedding_size']}",
        "task": summary["task"],
        "parameters": f"{summary['n_params']:,} trainable; {summary['n_params_with_statistics']:,} with batch-norm "
        f"statistics (Keras' total); {summary['n_params_folded']:,} with batch norms folded",
        "front end": f"{front_end['sample_rate']} Hz, {of_front_end}",
        "widths": " | ".join(f"{block} {' '.join(str(width) for _, width in group)}" for block, group in blocks),
        "labels": f"{len(labels)}: {listed}" + (f"; and {rest} more" if rest > 0 else ""),
        "source": printable(str(provenance.source)),
        "weights": f"sha256 {provenance.sha256}"
        + ("" if summary["storage"] == "float32" else f"; matrices and kernels stored as {summary['storage']}"),
        "parent": f"sha256 {parent}" if (parent := provenance.parent_sha256) else "none",
        "plan": printable("none" if provenance.plan is None else provenance.plan.summary()),
        "recipe": f"\n{'':<16}".join(operations) or "nothing recorded",
        "written with": printable(versions or "not recorded"),
    }
    return "\n".join([printable(summary["path"]), *(f"  {name:<13} {value}" for name, value in rows.items())])
