"""``epanns sweep``: a grid of trials from a TOML file."""

from functools import partial
from pathlib import Path

import click

from epanns.cli.options import EXISTING, PATH, EpannsCommand, emit, json_option, log, out_option
from epanns.cli.processes import at_most_cores
from epanns.errors import EpannsError


@click.command("sweep", cls=EpannsCommand)
@click.argument("experiment", metavar="EXPERIMENT.toml", type=EXISTING)
@out_option("Folder of the sweep; the same command goes on with what is not done.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    callback=at_most_cores,
    help="Trials at the same time; at most the number of cores.",
)
@click.option("--data-root", type=PATH, help="Folder of the data set, instead of the experiment's data.root.")
@json_option
def command(experiment: Path, out: Path, jobs: int, data_root: Path | None, as_json: bool) -> None:
    """Run every trial of EXPERIMENT.toml: bases, pruned networks, controls, for each seed.

    A trial with a result.json is done and is not run again. `epanns report OUT` makes tables and figures of it.
    """
    import dataclasses

    from epanns.heap import keep_freed_memory
    from epanns.sweeps.experiment import load_experiment
    from epanns.sweeps.runner import run_experiment

    asked = load_experiment(experiment)
    if data_root is not None:
        asked = dataclasses.replace(asked, data=dataclasses.replace(asked.data, root=str(data_root)))
    keep_freed_memory()  # trials run in this process where there is one at a time
    summary = run_experiment(asked, out, jobs=jobs, on_trial=partial(tell, out), tell=log)
    total = sum(map(len, (summary.done, summary.skipped, summary.failed)))
    emit(
        {"out": str(out), "done": summary.done, "skipped": summary.skipped, "failed": summary.failed},
        f"{out}: {len(summary.done)} trials done, {len(summary.skipped)} done before, {len(summary.failed)} failed",
        as_json,
    )
    if summary.failed:
        where = out / "trials" / summary.failed[0] / "error.json"
        raise EpannsError(
            f"{len(summary.failed)} of {total} trials failed, first {where}: mend the cause and run again"
        )


def tell(out: Path, trial_id: str, outcome: str, ended: int, total: int) -> None:
    """Say on stderr how a trial of the sweep in `out` ended."""
    from epanns.sweeps.journal import failure_in

    reason = f": {failure_in(out / 'trials' / trial_id)}" if outcome == "failed" else ""
    log(f"[{ended}/{total}] trial {trial_id} {outcome}{reason}")
