"""``epanns sweep``: a grid of trials from a TOML file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.launchers import launcher_of, launcher_options
from epanns.cli.shared.options import EXISTING, PATH, EpannsCommand, bounded_option, json_option, out_option
from epanns.cli.shared.terminal import emit, log
from epanns.errors import ConfigError, EpannsError

if TYPE_CHECKING:
    from epanns.sweeps.experiment import Experiment
    from epanns.sweeps.runner import SweepSummary
    from epanns.sweeps.shard import Shard


@click.command("sweep", cls=EpannsCommand)
@click.argument("experiment", metavar="EXPERIMENT.toml", type=EXISTING)
@out_option("Folder of the sweep. The same command resumes it.", required=False)
@bounded_option("--jobs", "Number of trials at the same time", least=1)
@click.option(
    "--shard",
    metavar="I/N",
    help="Run the part I of N of the trials, counted from 0, for job arrays: 0/4 to 3/4.",
)
@launcher_options
@click.option(
    "--track",
    type=click.Choice(["wandb", "mlflow"]),
    help="Send each finished trial to Weights & Biases or MLflow, as a run of the experiment's project.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the experiment and print its trials with parameters, MACs and an estimate of time; write nothing.",
)
@click.option("--retry-failed", is_flag=True, help="Run trials again that failed before.")
@click.option("--data-root", type=PATH, help="Folder of the data set, instead of the experiment's data.root.")
@json_option
def command(
    experiment: Path,
    out: Path | None,
    jobs: int,
    shard: str | None,
    track: str | None,
    dry_run: bool,
    retry_failed: bool,
    data_root: Path | None,
    as_json: bool,
    **launching: Any,
) -> None:
    """Run every trial of EXPERIMENT.toml: bases, pruned networks, controls, for each seed and fold.

    Every trial is checked before any is trained. A trial with a result.json is done and is not run again, so
    EXPERIMENT.toml may be corrected or extended and run in the same folder. A trial that fails leaves an error.json and
    does not stop the others; it is not run again without --retry-failed. `epanns report OUT` makes tables and figures
    of the results.
    """
    import dataclasses

    from epanns.process import keep_freed_memory
    from epanns.sweeps.experiment import load_experiment
    from epanns.sweeps.runner import run_experiment
    from epanns.sweeps.shard import Shard

    part = None if shard is None else Shard.of(shard)
    loaded = load_experiment(experiment)
    if data_root is not None:
        loaded = dataclasses.replace(loaded, data=dataclasses.replace(loaded.data, root=str(data_root)))
    if dry_run:
        emit_outline(loaded, out, part, jobs, as_json)
        return
    if out is None:
        raise ConfigError("--out is missing: give the folder of the sweep, or --dry-run")
    launcher = launcher_of(jobs, **launching)
    keep_freed_memory()  # with one job, trials run in this process
    summary = run_experiment(
        loaded,
        out,
        jobs=jobs,
        launcher=launcher,
        shard=part,
        retry_failed=retry_failed,
        tracker=track,
        on_trial=partial(log_trial, out),
        log=log,
    )
    total = sum(map(len, (summary.done, summary.skipped, summary.failed)))
    text = f"{out}: {counts_in_words(summary)}"
    emit({"out": str(out), **dataclasses.asdict(summary)}, text, as_json)
    if summary.failed:
        where = out / "trials" / summary.failed[0] / "error.json"
        raise EpannsError(
            f"{len(summary.failed)} of {total} trials failed, first {where}: correct the cause and run again "
            "with --retry-failed"
        )


def counts_in_words(summary: "SweepSummary") -> str:
    """Return the numbers of trials by outcome."""
    text = f"{len(summary.done)} trials done, {len(summary.skipped)} done before, {len(summary.failed)} failed"
    if summary.replaced:
        text += f"; {summary.replaced} trials without a result are no longer in the experiment"
    if left := summary.left:
        text += f"; {len(left)} finished trials are no longer in the experiment and stay: {', '.join(left)}"
    return text


def emit_outline(experiment: "Experiment", out: Path | None, shard: "Shard | None", jobs: int, as_json: bool) -> None:
    """Print the trials of an experiment, with an estimate of their time."""
    import dataclasses

    from epanns.reporting.notation import si
    from epanns.sweeps.outline import outline

    found = outline(experiment, out, shard=shard)
    rows = [
        {
            "id": trial.trial_id or "-",
            "base": trial.base,
            "trial": trial.what,
            "seed": str(trial.seed),
            "fold": str(trial.fold) if trial.fold else "",
            "parameters": si(trial.n_params),
            "MACs": si(trial.backbone_macs),
            "state": trial.state,
            "time": time_in_words(trial.seconds),
        }
        for trial in found.trials
    ]
    states = Counter(trial.state for trial in found.trials)
    lines = [aligned(rows)]
    if any(trial.trial_id is None for trial in found.trials):
        lines.append("ids follow from the clips, which are not packed yet")
    counts = ", ".join(f"{states[state]} {state}" for state in ("done", "failed", "to run"))
    lines.append(f"{len(rows)} trials: {counts}")
    time = time_in_words(found.seconds / jobs)
    lines.append(f"time of those to run with --jobs {jobs}: about {time}, by {found.rule}; packing is not included")
    result = {"trials": [dataclasses.asdict(trial) for trial in found.trials], "seconds": found.seconds / jobs}
    emit({**result, "rule": found.rule}, "\n".join(lines), as_json)


def aligned(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows with equal keys as lines of columns under the keys; columns without a value are left out."""
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    table = [names, *([row[name] for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def time_in_words(seconds: float) -> str:
    """Return a time with its unit: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def log_trial(out: Path, trial_id: str, outcome: str, ended: int, total: int) -> None:
    """Write one line to stderr about a trial of the sweep in `out` that has ended."""
    from epanns.sweeps.journal import TrialFolder

    log(f"[{ended}/{total}] {TrialFolder(out / 'trials' / trial_id).describe(outcome)}")
