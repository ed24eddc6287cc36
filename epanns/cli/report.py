"""`epanns report`: make tables and figures of run records, without torch and without the data."""

from dataclasses import asdict
from pathlib import Path

import click

from epanns.cli.shared.options import EXISTING, PATH, EpannsCommand, json_option, out_option
from epanns.cli.shared.terminal import emit
from epanns.errors import ConfigError
from epanns.safe_text import printable
from epanns.workfolder import DRAWING_SECONDS, WorkFolder, locked_file

_LISTED = 20  # failed trials in the text; --json has all of them


@click.command("report", cls=EpannsCommand)
@click.argument("folders", metavar="[DIR]...", nargs=-1, type=PATH)
@out_option("Folder for tables and figures, in place of an earlier report.", required=False)
@click.option(
    "--quoted/--no-quoted",
    default=None,
    help="Whether published results are written and printed, in separate tables.  [default: written, not printed]",
)
@click.option("--into", type=EXISTING, help="Document in which a table is replaced; requires --name.")
@click.option("--name", help="Name of the table in the document, which follows <!-- epanns report: NAME -->.")
@json_option
def command(
    folders: tuple[Path, ...],
    out: Path | None,
    quoted: bool | None,
    into: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Make report.html, tables (.md, .tex, .csv) and figures (.svg, .pdf, .png) of the run records below each DIR.

    Records are the result.json of sweeps and of `epanns evaluate --out`, and the files of a folder `records`. The page
    has the outputs of `epanns sensitivity`, `agree`, `train` and `finetune` below each DIR too, and scores by class;
    each checkpoint there gets a model card with its measured scores in cards/.

    `epanns report --quoted` alone prints published results. Where every DIR is the --out of `epanns train` or
    `finetune`, their learning curves are drawn together in learning_curves.svg, .pdf and .png instead.
    """
    if (into is None) != (name is None):
        raise ConfigError(f"--into {into} and --name {name} go together: give both or neither")
    if not folders:
        _quoted_alone(out, quoted, into, as_json)
        return
    if out is None:
        raise ConfigError("--out is missing: give the folder for tables and figures")
    hold_report(out)
    from epanns.reporting.figures.learning_curve import is_run

    if all(map(is_run, folders)):
        _curves(folders, out, into, as_json)
        return
    from epanns.records import read_records, record_paths
    from epanns.reporting.quoted import quoted_markdown, quoted_rows
    from epanns.reporting.report import insert_table, write_report
    from epanns.reporting.sources import find_sources
    from epanns.sweeps.journal import failures_in, failures_in_words

    sources = find_sources(folders)
    with_records = [  # a folder needs none where it has something else to show
        folder
        for folder in folders
        if not folder.is_dir() or any(record_paths(folder)) or find_sources([folder]).is_empty
    ]
    records, failures = read_records(with_records, remark=failures_in_words), failures_in(folders)
    report = write_report(records, out, quoted=quoted is not False, failures=failures, sources=sources)
    if into is not None and name is not None:
        with locked_file(into, wait=DRAWING_SECONDS):
            insert_table(into, name, report.table)
    result = {"n_records": report.n_records, "n_rows": report.n_rows, "files": [str(path) for path in report.files]}
    result["failed"] = [{"trial": str(failure.folder), "reason": failure.reason} for failure in failures]
    result["n_without_score"] = report.n_without_score
    written = ", ".join(path.name for path in report.files)
    lines = [f"{report.table}\n{report.n_records} records in {report.n_rows} rows; in {out}: {written}"]
    if report.n_without_score:
        lines.append(f"{report.n_without_score} of the records have no score and are in no row")
    lines += [
        f"  without a result: {printable(f'{failure.folder}: {failure.reason}')}" for failure in failures[:_LISTED]
    ]
    lines += [f"  and {len(failures) - _LISTED} more trials without a result"] if len(failures) > _LISTED else []
    text = "\n".join(lines)
    if quoted:
        result["quoted"] = [asdict(row) for row in quoted_rows()]
        text = f"{text}\n\n{quoted_markdown(quoted_rows())}"
    emit(result, text, as_json)


def hold_report(out: Path) -> None:
    """Keep other processes from writing a report into a folder until the command ends; wait for their reports."""
    folder = WorkFolder(out, lock="report.lock")  # a run or a sweep in the same folder does not matter
    click.get_current_context().with_resource(folder.locked(wait=DRAWING_SECONDS))


def _curves(runs: tuple[Path, ...], out: Path, into: Path | None, as_json: bool) -> None:
    """Draw the learning curves of training runs in one figure."""
    if into is not None:
        raise ConfigError(f"--into {into} takes the table of run records: training runs have learning curves only")
    from epanns.reporting.figures.learning_curve import read_curve, write_learning_curves

    files = [str(path) for path in write_learning_curves(runs, out, stem="learning_curves")]
    curves = [read_curve(run) for run in runs]
    found = [
        {"run": str(run), "score": curve.score, "best_step": int(curve.best[0]), "best_score": curve.best[1]}
        for run, curve in zip(runs, curves, strict=True)
    ]
    lines = [
        f"{run}: best {curve.score} {curve.best[1]:.4f} at step {curve.best[0]:,.0f}"
        for run, curve in zip(runs, curves, strict=True)
    ]
    emit({"runs": found, "files": files}, "\n".join([*lines, f"in {', '.join(files)}"]), as_json)


def _quoted_alone(out: Path | None, quoted: bool | None, into: Path | None, as_json: bool) -> None:
    """Print the published results, without run records."""
    if not quoted:
        raise ConfigError("no DIR: name folders with run records, or give --quoted for published results")
    if into is not None:
        raise ConfigError(f"--into {into} takes the table of measured runs: give a DIR with run records")
    from epanns.reporting.quoted import quoted_markdown, quoted_rows
    from epanns.reporting.report import write_quoted

    if out is not None:
        hold_report(out)
    files = [] if out is None else [str(path) for path in write_quoted(out)]
    result = {"n_records": 0, "n_rows": 0, "files": files, "quoted": [asdict(row) for row in quoted_rows()]}
    emit(result, quoted_markdown(quoted_rows()), as_json)
