"""``epanns compare``: paired differences of networks that were scored on the same clips."""

from pathlib import Path

import click

from epanns.cli.shared.options import SEED, EpannsCommand, json_option, out_option, reserve
from epanns.cli.shared.terminal import emit


@click.command("compare", cls=EpannsCommand)
@click.argument("rows", metavar="A B [C]...", nargs=-1, required=True)
@click.option(
    "--score",
    type=click.Choice(["mAP", "accuracy"]),
    default="mAP",
    show_default=True,
    help="Score that is compared. accuracy: the share of clips whose class has the highest score.",
)
@click.option("--all-pairs", is_flag=True, help="Compare every two rows.  [default: each with A]")
@click.option(
    "--group-pattern",
    default="",
    help="Regular expression with one capturing group that finds each clip's recording, speaker or place in its file "
    "name, or else in its whole clip id: '^[0-9]-([0-9]+)-' for ESC-50. Resamples draw groups.  [default: the groups "
    "in scores.npz, else clips]",
)
@click.option(
    "--bootstrap", type=click.IntRange(0), default=1000, show_default=True, help="Number of resamples; 0 for none."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the resampling.")
@click.option(
    "--per-class",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of largest gains and losses shown.",
)
@out_option("Folder for comparison.json, table.md, differences.csv and per_class.csv; must not exist.", required=False)
@json_option
def command(
    rows: tuple[str, ...],
    score: str,
    all_pairs: bool,
    group_pattern: str,
    bootstrap: int,
    seed: int,
    per_class: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare networks by their scores of the same clips: B minus A, with its 95 % interval and p.

    A row is the --out of `epanns evaluate`, a folder of several such folders with a seed each, or FOLDER:SELECTION of a
    sweep with keep_scores = true: a trial's id, as runs/sweep:3f2a, or settings, as runs/sweep:criterion=l1,ratio=0.5.
    Runs that differ in their seed alone are one row. All rows must have the same clips, classes, labels and protocol.

    Resamples draw clips, or groups of clips, once for all rows, and then the seeds of each row with replacement. p is
    two-sided: twice the share of resamples in which the difference is 0 or has the other sign. Several differences are
    corrected by Holm's method.
    """
    if out is not None:
        reserve(out)
    from epanns.reporting.comparison import compare
    from epanns.reporting.comparison_tables import comparison_markdown, write_comparison

    found = compare(rows, score=score, all_pairs=all_pairs, group_pattern=group_pattern, bootstrap=bootstrap, seed=seed)
    text, result = comparison_markdown(found, per_class=per_class).rstrip("\n"), found.to_dict()
    if out is not None:
        files = write_comparison(found, out, per_class=per_class)
        text += f"\n\nin {out}: {', '.join(path.name for path in files)}"
        result["files"] = [str(path) for path in files]
    emit(result, text, as_json)
