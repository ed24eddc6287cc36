"""`epanns import`: convert a released file, on disk or downloaded, to a checkpoint."""

from dataclasses import replace
from pathlib import Path

import click

from epanns.cli.shared.options import EXISTING_FILE, EpannsCommand, json_option, out_option, reserve
from epanns.cli.shared.terminal import emit, log, progress_counter
from epanns.errors import ConfigError
from epanns.labels import TASKS
from epanns.models.files.included import included_folder


@click.command("import", cls=EpannsCommand)
@click.argument("file_or_name")
@out_option("Checkpoint folder to write; must not exist.")
@click.option("--sample-rate", type=int, help="Sample rate in Hz, 32000, 16000 or 8000, for a file without front end.")
@click.option(
    "--head",
    type=click.Choice(["clip", "decision_max", "decision_avg", "decision_att"]),
    help="Pooling over time.  [default: from the tensors, the catalogue or the file name]",
)
@click.option(
    "--labels",
    type=EXISTING_FILE,
    help="Class list, CSV index,mid,display_name, one line per class.  [default: AudioSet's or YAMNet's classes, else "
    "numbers]",
)
@click.option(
    "--task",
    type=click.Choice(list(TASKS)),
    help="Output of the network: a sigmoid for each class (multi-label) or one softmax (single-label).  [default: that "
    "of a checkpoint, else multi-label]",
)
@click.option(
    "--storage",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Number format of the weights in --out. float16: matrices and kernels in half as many bytes, rounded; they "
    "are read as float32.",
)
@json_option
def command(
    file_or_name: str,
    out: Path,
    sample_rate: int | None,
    head: str | None,
    labels: Path | None,
    task: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Convert a released PANNs, E-PANNs or YAMNet file to a checkpoint, or store a checkpoint in another format.

    FILE_OR_NAME is a .pth/.pt file, YAMNet's yamnet.h5 or folded .npz, or the name of a released file or network
    (`epanns models` lists them), which is downloaded once into $EPANNS_CACHE or ~/.cache/epanns-pruning. With --storage
    float16 it may be a checkpoint folder too.
    """
    reserve(out)
    path = included_folder(file_or_name) or Path(file_or_name)
    if not path.exists():
        from epanns.models.files.download import cache_folder, fetch, released_file

        file = released_file(file_or_name)
        with progress_counter(file.name, "B") as show:
            path = fetch(file, cache_folder(), progress=show)
        if file.sha256 is None:
            log(f"{file.name}: unverified: no sha256 of this file is published")
    from epanns.labels import LabelSet
    from epanns.models.files.checkpoint import save_checkpoint
    from epanns.models.files.load import read_checkpoint
    from epanns.models.files.released import read_released

    if path.is_dir() and storage != "float32":
        if labels is not None:
            raise ConfigError(f"--labels {labels}: the checkpoint {path} has labels of its own: leave it out")
        checkpoint = read_checkpoint(path, sample_rate=sample_rate, head=head)
    else:
        names = None if labels is None else LabelSet.from_csv(labels)
        checkpoint = read_released(path, sample_rate=sample_rate, head=head, labels=names)
    checkpoint = replace(checkpoint, spec=checkpoint.spec.with_task(task or checkpoint.spec.task))
    for assumption in (*checkpoint.notes, *checkpoint.provenance.assumed):
        log(f"{path}: {assumption}")
    sha256 = save_checkpoint(checkpoint.build(), out, storage=storage)
    result = {"out": str(out), "weights_sha256": sha256, **checkpoint.summary()}
    text = (
        f"{out}: {result['name']}, head {result['head']}, {result['n_params']:,} parameters, "
        f"{result['num_classes']} classes at {result['sample_rate']} Hz"
        + (", single-label" if result["task"] == "single-label" else "")
        + (f", stored as {storage}" if storage != "float32" else "")
    )
    emit(result, text, as_json)
