"""Records to a folder of tables and figures, and a table into a document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epanns import atomic
from epanns.errors import DataError, OutputError
from epanns.records import Failure, RunRecord
from epanns.reporting import figures, tables
from epanns.reporting.layout import lay_out
from epanns.reporting.pareto import pareto_chart
from epanns.reporting.quoted import quoted_rows
from epanns.reporting.rows import is_shown, rows_by_block
from epanns.reporting.svg import to_svg
from epanns.safe_text import path_name

_WRITTEN = ("table.md", "table.csv", "records.csv", "quoted.md", "quoted.csv", "figure.svg", "figure.png", "figure.pdf")
_END = "<!-- end of epanns report -->"
_OPTIONAL = frozenset({"quoted.md", "quoted.csv", "figure.png", "figure.pdf"})  # not in every report


@dataclass(frozen=True)
class Report:
    """What was written: the measured table in Markdown, the counts behind it, and the files.

    `n_without_score` records hold no score of a stage that tables show, and are in no row.
    """

    table: str
    n_records: int
    n_rows: int
    files: tuple[Path, ...]
    n_without_score: int = 0


def write_report(
    records: Sequence[RunRecord], out: Path, *, quoted: bool = True, failures: Sequence[Failure] = ()
) -> Report:
    """Write tables and figures; those of an earlier report in `out` are replaced or removed, other files left alone.

    Measured results: ``table.md``, ``table.csv`` (a row per configuration, averaged over seeds) and ``records.csv``
    (a row per run). Published ones: ``quoted.md`` and ``quoted.csv``. All as ``figure.svg``, and ``figure.png`` and
    ``figure.pdf`` where matplotlib is installed. The records themselves go to ``records/``, so that the report can be
    made again from `out` alone.

    Args:
        records: Runs; those of different data, protocols or clip lengths are kept apart.
        out: Folder, made if it is not there.
        quoted: Whether to show published results, in tables and panels of their own.
        failures: Trials without a result, which the table counts by reason.

    Raises:
        DataError: If the `trial_id` of a record cannot be the name of a file.
        OutputError: If `out` is a file, or its ``records/`` holds runs that are not among `records`.
    """
    copies = {
        out / "records" / f"{path_name(record.trial_id, 'trial_id', DataError)}.json": record for record in records
    }
    _refuse_foreign(out, set(copies))
    records = sorted(records, key=_reading_order)
    blocks = rows_by_block(records)
    published = quoted_rows() if quoted else ()
    texts = {
        "table.md": tables.measured_markdown(blocks, failures),
        "table.csv": tables.measured_csv(blocks),
        "records.csv": tables.records_csv(records),
    }
    if published:
        texts |= {"quoted.md": tables.quoted_markdown(published), "quoted.csv": tables.quoted_csv(published)}
    drawing = lay_out(pareto_chart(blocks, published))
    texts["figure.svg"] = to_svg(drawing)
    (out / "records").mkdir(parents=True, exist_ok=True)  # first: where it is, the rest is a report's
    for name, text in texts.items():
        atomic.write_text(out / name, text)
    for path, record in copies.items():
        atomic.write_json(path, record.to_dict())
    images = ["figure.png", "figure.pdf"] if figures.can_draw() else []
    for name in images:
        figures.draw(drawing, out / name)
    for name in _OPTIONAL - {*texts, *images}:
        (out / name).unlink(missing_ok=True)  # else an earlier report's would pass for this one's
    return Report(
        table=texts["table.md"],
        n_records=len(records),
        n_rows=sum(map(len, blocks.values())),
        files=tuple(out / name for name in [*texts, *images]),
        n_without_score=sum(not is_shown(record) for record in records),
    )


def write_quoted(out: Path) -> tuple[Path, ...]:
    """Write the published results alone, ``quoted.md`` and ``quoted.csv``, and return where they are.

    Raises:
        OutputError: If `out` is a file, or holds files of these names that are of no report.
    """
    rows = quoted_rows()
    texts = {"quoted.md": tables.quoted_markdown(rows), "quoted.csv": tables.quoted_csv(rows)}
    if out.is_file():
        raise OutputError(f"{out} is a file: give --out a folder")
    for name, text in texts.items():
        path = out / name
        if path.exists() and not (out / "records").is_dir() and path.read_text(encoding="utf-8") != text:
            raise OutputError(f"{path} exists already and is of no report of ours: choose another --out")
        atomic.write_text(path, text)
    return tuple(out / name for name in texts)


def _refuse_foreign(out: Path, copies: set[Path]) -> None:
    """Refuse a folder with files that are of no report, or with records that are not among `copies`."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: give --out a folder")
    if not (out / "records").is_dir() and (foreign := [out / name for name in _WRITTEN if (out / name).exists()]):
        raise OutputError(f"{foreign[0]} exists already and is of no report of ours: choose another --out")
    if others := sorted(set((out / "records").glob("*.json")) - copies):
        raise OutputError(
            f"{others[0]} and {len(others) - 1} more are not in this report: give {out} as a DIR too, "
            "delete them, or choose another --out"
        )


def _reading_order(record: RunRecord) -> tuple[str | float | int, ...]:
    """Sort runs so that a report does not depend on where its records lie."""
    layers, ratio = ",".join(record.layers), record.ratio or 0.0
    recipe = (record.recover, record.finetune_iterations, record.seed, record.trial_id)
    return (record.dataset, record.model, record.width, record.criterion or "", layers, ratio, *recipe)


def insert_table(document: Path, name: str, table: str) -> None:
    """Replace what stands between ``<!-- epanns report: NAME -->`` and ``<!-- end of epanns report -->``.

    Raises:
        DataError: If the document cannot be read.
        OutputError: If the markers are missing or stand more than once; the document is left as it was.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{document}: cannot be read as text ({error})") from error
    begin = f"<!-- epanns report: {name} -->"
    if text.count(begin) != 1:
        raise OutputError(f"{document}: {begin} stands {text.count(begin)} times: write it once, where the table goes")
    before, _, rest = text.partition(begin)
    old, end, after = rest.partition(_END)
    if not end or "<!-- epanns report: " in old:
        raise OutputError(f"{document}: no {_END} after {begin}: write it where the table ends")
    atomic.write_text(document, f"{before}{begin}\n\n{table.strip()}\n\n{end}{after}")
