"""``epanns sweep``: a grid of trials from a TOML file."""

from functools import partial
from pathlib import Path

import click

from epanns.cli.shared.options import EXISTING, PATH, EpannsCommand, bounded_option, json_option, out_option
from epanns.cli.shared.terminal import emit, log
from epanns.errors import EpannsError


@click.command("sweep", cls=EpannsCommand)
@click.argument("experiment", metavar="EXPERIMENT.toml", type=EXISTING)
@out_option("Folder of the sweep. The same command resumes it.")
@bounded_option("--jobs", "Number of trials at the same time", least=1)
@click.option("--data-root", type=PATH, help="Folder of the data set, instead of the experiment's data.root.")
@json_option
def command(experiment: Path, out: Path, jobs: int, data_root: Path | None, as_json: bool) -> None:
    """Run every trial of EXPERIMENT.toml: bases, pruned networks, controls, for each seed.

    Every trial is checked before any is trained. A trial with a result.json is done and is not run again, so
    EXPERIMENT.toml may be corrected or extended and run in the same folder. `epanns report OUT` makes tables and
    figures of the results.
    """
    import dataclasses

    from epanns.process import keep_freed_memory
    from epanns.sweeps.experiment import load_experiment
    from epanns.sweeps.runner import run_experiment

    loaded = load_experiment(experiment)
    if data_root is not None:
        loaded = dataclasses.replace(loaded, data=dataclasses.replace(loaded.data, root=str(data_root)))
    keep_freed_memory()  # with one job, trials run in this process
    summary = run_experiment(loaded, out, jobs=jobs, on_trial=partial(log_trial, out), log=log)
    total = sum(map(len, (summary.done, summary.skipped, summary.failed)))
    text = f"{out}: {len(summary.done)} trials done, {len(summary.skipped)} done before, {len(summary.failed)} failed"
    if summary.replaced:
        text += f"; {summary.replaced} trials without a result are no longer in the experiment"
    if left := summary.left:
        text += f"; {len(left)} finished trials are no longer in the experiment and stay: {', '.join(left)}"
    emit({"out": str(out), **dataclasses.asdict(summary)}, text, as_json)
    if summary.failed:
        where = out / "trials" / summary.failed[0] / "error.json"
        raise EpannsError(
            f"{len(summary.failed)} of {total} trials failed, first {where}: correct the cause and run again"
        )


def log_trial(out: Path, trial_id: str, outcome: str, ended: int, total: int) -> None:
    """Write one line to stderr about a trial of the sweep in `out` that has ended."""
    from epanns.sweeps.journal import TrialFolder

    log(f"[{ended}/{total}] {TrialFolder(out / 'trials' / trial_id).describe(outcome)}")
