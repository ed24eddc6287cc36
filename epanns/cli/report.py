"""``epanns report``: run records to tables and figures; needs neither torch nor the data."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from epanns.cli.options import EXISTING, PATH, EpannsCommand, emit, json_option, out_option
from epanns.errors import ConfigError


@click.command("report", cls=EpannsCommand)
@click.argument("folders", metavar="[DIR]...", nargs=-1, type=PATH)
@out_option("Folder for tables and figures; an earlier report in it is replaced.", required=False)
@click.option(
    "--quoted/--no-quoted",
    default=None,
    help="Published results in tables of their own, also without any DIR.  [default: written, not printed]",
)
@click.option("--into", type=EXISTING, help="Document whose table is replaced; needs --name.")
@click.option("--name", help="Which table of the document: the one after <!-- epanns report: NAME -->.")
@json_option
def command(
    folders: tuple[Path, ...],
    out: Path | None,
    quoted: bool | None,
    into: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Make table.md, table.csv, records.csv and figure.svg of the run records below each DIR.

    Records are the result.json of sweeps and of `epanns evaluate --out`, and the files of a folder `records`. With
    matplotlib installed the figure is written as PNG and PDF too. `epanns report --quoted` alone prints what others
    published.
    """
    if (into is None) != (name is None):
        raise ConfigError(f"--into {into} and --name {name} go together: give both or neither")
    if not folders:
        _quoted_alone(out, quoted, into, as_json)
        return
    if out is None:
        raise ConfigError("--out is missing: give the folder for tables and figures")
    from epanns.reporting.report import insert_table, write_report
    from epanns.sweeps.records import read_records

    report = write_report(read_records(folders), out, quoted=quoted is not False)
    if into is not None and name is not None:
        insert_table(into, name, report.table)
    result = {"n_records": report.n_records, "n_rows": report.n_rows, "files": [str(path) for path in report.files]}
    written = ", ".join(path.name for path in report.files)
    text = f"{report.table}\n{report.n_records} records in {report.n_rows} rows; in {out}: {written}"
    if quoted:
        result, text = result | {"quoted": _quoted_values()}, f"{text}\n\n{_quoted_text()}"
    emit(result, text, as_json)


def _quoted_alone(out: Path | None, quoted: bool | None, into: Path | None, as_json: bool) -> None:
    """Show the published results without any run."""
    if not quoted:
        raise ConfigError("no DIR was given: name folders with run records, or give --quoted for what others published")
    if into is not None:
        raise ConfigError(f"--into {into} takes the table of measured runs: give a DIR with run records")
    from epanns.reporting.report import write_quoted

    files = [] if out is None else [str(path) for path in write_quoted(out)]
    emit({"n_records": 0, "n_rows": 0, "files": files, "quoted": _quoted_values()}, _quoted_text(), as_json)


def _quoted_values() -> list[dict[str, Any]]:
    from epanns.reporting.quoted import quoted_rows

    return [asdict(row) for row in quoted_rows()]


def _quoted_text() -> str:
    from epanns.reporting.quoted import quoted_rows
    from epanns.reporting.tables import quoted_markdown

    return quoted_markdown(quoted_rows())
