"""``epanns quickstart``: train, prune, fine-tune and report on generated sound."""

from functools import partial
from importlib import resources
from pathlib import Path

import click

from epanns.cli.shared.options import EpannsCommand, json_option, out_option
from epanns.cli.shared.terminal import emit, log

_NEXT = "Tag sound of your own, with the included network: epanns tag FILE"


@click.command("quickstart", cls=EpannsCommand)
@out_option("Folder for data, trials and report. The same command resumes the run.")
@json_option
def command(out: Path, as_json: bool) -> None:
    """Pack, train, prune, recover, fine-tune, evaluate and report on generated sound.

    A narrow Cnn14 is trained to tag ten kinds of synthetic events. A quarter, a half and three quarters of the filters
    of its last six convolutions are removed, and the network is scored at each stage. OUT/report holds the table and
    the figure. The line behind the tables tags sound of your own with an included network.
    """
    from epanns.cli.report import hold_report
    from epanns.cli.sweep import log_trial
    from epanns.errors import EpannsError
    from epanns.records import read_records
    from epanns.reporting.quoted import quoted_markdown, quoted_rows
    from epanns.reporting.report import write_report
    from epanns.sweeps.experiment import parse_experiment
    from epanns.sweeps.runner import run_experiment

    text = (resources.files("epanns") / "sweeps" / "quickstart.toml").read_text(encoding="utf-8")
    experiment = parse_experiment(text, "quickstart.toml")
    log("generating and packing sound, then training a base, pruning it three times and fine-tuning each")
    summary = run_experiment(experiment, out, retry_failed=True, on_trial=partial(log_trial, out), log=log)
    if summary.failed:
        raise EpannsError(f"trial {summary.failed[0]} failed: see {out}/trials/{summary.failed[0]}/error.json")
    hold_report(out / "report")
    report = write_report(read_records([out / "trials"]), out / "report")
    result = {"out": str(out), "files": [str(path) for path in report.files]}
    quoted = quoted_markdown(row for row in quoted_rows() if row.figure_label)  # quoted.md holds them all
    files = ", ".join(str(path) for path in report.files)
    emit(result, f"{report.table}\n{quoted}\nTables and figure: {files}\n{_NEXT}", as_json)
