"""Records to a folder of tables and figures, and a table into a document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epanns import atomic
from epanns.errors import DataError, OutputError
from epanns.records import RunRecord
from epanns.reporting import tables
from epanns.reporting.cards import model_cards
from epanns.reporting.figures import style as figure
from epanns.reporting.figures.bands import DEPLOYMENT, measured_bands, quoted_bands
from epanns.reporting.figures.learning_curve import OF_RECORDS, Curve, learning_figure
from epanns.reporting.figures.pareto import pareto_figure
from epanns.reporting.figures.per_class import per_class_figure
from epanns.reporting.latex import measured_latex
from epanns.reporting.outcome import mean_curve, name_of
from epanns.reporting.page.page import report_page
from epanns.reporting.quoted import quoted_csv, quoted_markdown, quoted_rows
from epanns.reporting.rows import BlockKey, Row, is_shown, rows_by_block
from epanns.reporting.sources import Sources
from epanns.safe_text import path_name
from epanns.sweeps.journal import Failure

_QUOTED = ("quoted.md", "quoted.csv", "quoted.svg", "quoted.pdf", "quoted.png")
_TABLES = ("table.md", "table.csv", "table.tex", "records.csv")
_FURTHER = tuple(f"{stem}{suffix}" for stem in ("learning_curves", "per_class") for suffix in figure.FORMATS)
_FIGURES = tuple(f"{stem}{suffix}" for stem in ("figure", "deployment") for suffix in figure.FORMATS)
PAGE = "report.html"
_CARDS = "cards"
_WRITTEN = (*_TABLES, PAGE, *_FIGURES, *_FURTHER, *_QUOTED)
_MOST_CURVES = 14
_END = "<!-- end of epanns report -->"


@dataclass(frozen=True)
class Report:
    """The measured table in Markdown, its counts, and the files written.

    `n_without_score` counts the records without a score of any stage that tables show: they are in no row.
    """

    table: str
    n_records: int
    n_rows: int
    files: tuple[Path, ...]
    n_without_score: int = 0


def write_report(
    records: Sequence[RunRecord],
    out: Path,
    *,
    quoted: bool = True,
    failures: Sequence[Failure] = (),
    sources: Sources | None = None,
) -> Report:
    """Write tables and figures; an earlier report in `out` is replaced, other files are left alone.

    Measured results are ``table.md``, ``table.tex``, ``table.csv`` (a row per configuration, averaged over seeds),
    ``records.csv`` (a row per run), ``figure.svg``, ``.pdf`` and ``.png`` (mAP against parameters and MACs), and
    ``deployment.svg``, ``.pdf`` and ``.png`` (against bytes, and latency where it was recorded), and ``report.html``,
    one page with everything. Learning curves, scores by class and checkpoints, where there are any, are
    ``learning_curves.svg``, ``per_class.svg`` (``.pdf`` and ``.png``) and ``cards/*.md``. Published results are
    ``quoted.md``, ``quoted.csv`` and ``quoted.svg``, ``.pdf`` and ``.png``. The records are copied to ``records/``, so
    that the report can be made again from `out` alone.

    Args:
        records: Runs; different data, protocols or clip lengths are kept apart.
        out: Folder, created if missing.
        quoted: Whether to write published results.
        failures: Trials without a result, which the table counts by reason.
        sources: Further results, which the page shows.

    Raises:
        DataError: If the `trial_id` of a record cannot be a file name.
        OutputError: If `out` is a file, or its ``records/`` holds runs that are not among `records`.
    """
    copies = {
        out / "records" / f"{path_name(record.trial_id, 'trial_id', DataError)}.json": record for record in records
    }
    _refuse_foreign(out, _WRITTEN)
    if others := sorted(set((out / "records").glob("*.json")) - set(copies)):
        raise OutputError(
            f"{others[0]} and {len(others) - 1} more are not in this report: give {out} as a DIR too, "
            "delete them, or choose another --out"
        )

    def reading_order(record: RunRecord) -> tuple[str | float | int, ...]:  # independent of where records are stored
        layers, ratio = ",".join(record.layers), record.ratio or 0.0
        recipe = (record.recover, record.finetune_iterations, record.seed, record.trial_id)
        return (record.dataset, record.model, record.width, record.criterion or "", layers, ratio, *recipe)

    records = sorted(records, key=reading_order)
    blocks = rows_by_block(records)
    texts = {
        "table.md": tables.measured_markdown(blocks, failures),
        "table.csv": tables.measured_csv(blocks),
        "table.tex": measured_latex(blocks),
        "records.csv": tables.records_csv(records),
    }
    figures = {
        "figure": ("mAP against parameters and multiply-adds", measured_bands(blocks)),
        "deployment": ("mAP against bytes and latency", measured_bands(blocks, DEPLOYMENT)),
    }
    if quoted:
        texts |= {"quoted.md": quoted_markdown(quoted_rows()), "quoted.csv": quoted_csv(quoted_rows())}
        figures["quoted"] = ("mAP against parameters and multiply-adds", quoted_bands(quoted_rows()))
    for name in (
        *_FURTHER,
        *(() if quoted else _QUOTED),
    ):  # of an earlier report, they would pass for files of this one
        (out / name).unlink(missing_ok=True)
    (out / "records").mkdir(parents=True, exist_ok=True)  # first: it marks the folder as a report
    atomic.write_texts({path: atomic.json_text(record.to_dict()) for path, record in copies.items()})
    atomic.write_texts({out / name: text for name, text in texts.items()})
    files = [out / name for name in texts]
    for stem, (title, bands) in figures.items():
        title = f"{title}: {'; '.join(band.title for band in bands)}"
        files += figure.save(pareto_figure(bands), out, stem, title=title)
    sources = sources or Sources()
    files += _write_further(out, blocks, records, sources)
    page = report_page(
        blocks,
        records,
        failures=failures,
        sources=sources,
        quoted=quoted_rows() if quoted else (),
        files=[str(path.relative_to(out)) for path in files],
    )
    atomic.write_text(out / PAGE, page)
    files.append(out / PAGE)
    return Report(
        table=texts["table.md"],
        n_records=len(records),
        n_rows=sum(map(len, blocks.values())),
        files=tuple(files),
        n_without_score=sum(not is_shown(record) for record in records),
    )


def _write_further(
    out: Path, blocks: Mapping[BlockKey, Sequence[Row]], records: Sequence[RunRecord], sources: Sources
) -> list[Path]:
    """Write the figures of learning curves and classes and the model cards, where there are any."""
    by_trial = {record.trial_id: record for record in records}
    curves = list(sources.curves)
    for row in (row for rows in blocks.values() for row in rows):
        if points := mean_curve(row, by_trial):
            curves.append(Curve(name_of(row), row.network, OF_RECORDS, (), tuple(points)))
    curves = sorted(curves, key=lambda curve: -curve.best[1])[:_MOST_CURVES]
    files: list[Path] = []
    if curves:
        title = f"Learning curves: {'; '.join(curve.name for curve in curves)}"
        files += figure.save(learning_figure(curves), out, "learning_curves", title=title)
    if sources.classes:
        title = f"Average precision by class: {'; '.join(scores.name for scores in sources.classes)}"
        files += figure.save(per_class_figure(sources.classes), out, "per_class", title=title)
    cards = {out / _CARDS / name: text for name, text in model_cards(sources.checkpoints, records).items()}
    atomic.write_texts(cards)
    return [*files, *cards]


def write_quoted(out: Path) -> tuple[Path, ...]:
    """Write the published results alone, as ``quoted.md`` and ``quoted.csv``, and return the files.

    Raises:
        OutputError: If `out` is a file, or holds files of these names that no report wrote.
    """
    rows = quoted_rows()
    files = {out / "quoted.md": quoted_markdown(rows), out / "quoted.csv": quoted_csv(rows)}
    differing = [
        path.name for path, text in files.items() if path.exists() and path.read_text(encoding="utf-8") != text
    ]
    _refuse_foreign(out, differing)
    for path, text in files.items():
        atomic.write_text(path, text)
    return tuple(files)


def _refuse_foreign(out: Path, names: Sequence[str]) -> None:
    """Refuse a file, and a folder with files of these names that no report wrote."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: give --out a folder")
    if not (out / "records").is_dir() and (foreign := [out / name for name in names if (out / name).exists()]):
        raise OutputError(f"{foreign[0]} exists and was not written by a report: choose another --out")


def insert_table(document: Path, name: str, table: str) -> None:
    """Replace the text between ``<!-- epanns report: NAME -->`` and ``<!-- end of epanns report -->``.

    Raises:
        DataError: If the document cannot be read.
        OutputError: If a marker is missing or repeated; the document is left as it was.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{document}: cannot be read as text ({error})") from error
    begin = f"<!-- epanns report: {name} -->"
    if text.count(begin) != 1:
        raise OutputError(f"{document}: {begin} occurs {text.count(begin)} times: write it once, where the table goes")
    before, _, rest = text.partition(begin)
    old, end, after = rest.partition(_END)
    if not end or "<!-- epanns report: " in old:
        raise OutputError(f"{document}: no {_END} after {begin}: write it where the table ends")
    atomic.write_text(document, f"{before}{begin}\n\n{table.strip()}\n\n{end}{after}")
