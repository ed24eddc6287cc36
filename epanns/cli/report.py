"""``epanns report``: run records to tables and figures; needs neither torch nor the data."""

from pathlib import Path

import click

from epanns.cli.options import EXISTING, PATH, EpannsCommand, emit, json_option, out_option
from epanns.errors import ConfigError


@click.command("report", cls=EpannsCommand)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=PATH)
@out_option("Folder for tables and figures; an earlier report in it is replaced.")
@click.option("--quoted/--no-quoted", default=True, show_default=True, help="Show published results beside, apart.")
@click.option("--into", type=EXISTING, help="Document whose table is replaced; needs --name.")
@click.option("--name", help="Which table of the document: the one after <!-- epanns report: NAME -->.")
@json_option
def command(
    folders: tuple[Path, ...], out: Path, quoted: bool, into: Path | None, name: str | None, as_json: bool
) -> None:
    """Make table.md, table.csv, records.csv and figure.svg of the run records below each DIR.

    Records are the result.json of sweeps and of `epanns evaluate --out`, and the files of a folder `records`. With
    matplotlib installed the figure is written as PNG and PDF too.
    """
    if (into is None) != (name is None):
        raise ConfigError(f"--into {into} and --name {name} go together: give both or neither")
    from epanns.reporting.report import insert_table, write_report
    from epanns.sweeps.records import read_records

    report = write_report(read_records(folders), out, quoted=quoted)
    if into is not None and name is not None:
        insert_table(into, name, report.table)
    result = {"n_records": report.n_records, "n_rows": report.n_rows, "files": [str(path) for path in report.files]}
    written = ", ".join(path.name for path in report.files)
    text = f"{report.table}\n{report.n_records} records in {report.n_rows} rows; in {out}: {written}"
    emit(result, text, as_json)
