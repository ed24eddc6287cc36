"""The tables of the page: every heading sorts, every cell has the number that it is sorted by."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from epanns.records import STAGES
from epanns.reporting.notation import MISSING
from epanns.reporting.page.svg import text_of
from epanns.reporting.rows import AGREEMENT, BlockKey, Estimate, Row
from epanns.reporting.sources import AgreementFile, ClassScores
from epanns.reporting.tables import shown_columns

_CHOICES = frozenset({"Network", "Name", "Experiment", "Criterion", "Layers", "Ratio", "Recovery", "Iterations"})
_COUNTS = {"Parameters": "n_params", "MB": "param_bytes", "Seeds": "n_seeds", "Iterations": "finetune_iterations"}
_COUNTS |= {"Ratio": "ratio"}
_LONG = 36  # characters; longer cells are wrapped
_BAR = (
    '<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
    '<rect width="{width:.1f}" height="8"/></svg>'
)


class Cell(NamedTuple):
    """A text, the number by which it is sorted (None for text, or unknown), and the length of its bar in [0, 1]."""

    text: str
    number: float | None = None
    bar: float | None = None


def html_table(
    title: str,
    headings: Sequence[str],
    body: Sequence[Sequence[Cell]],
    *,
    numbers: Collection[str] = (),
    first: int | None = None,
) -> str:
    """Return a table in a box that scrolls sideways; `first` is the number of its first row, by which marks find rows.

    Args:
        title: Caption for readers who cannot see the page.
        headings: Text of the columns' heads.
        body: Cells of each row.
        numbers: Headings of columns of numbers.
        first: None for a table whose rows have no marks.
    """
    head = "".join(
        f'<th scope="col"{" class=number" if name in numbers else ""}{" data-choice" if name in _CHOICES else ""}>'
        f"<button type=button>{text_of(name)}</button></th>"
        for name in headings
    )
    rows = []
    for place, cells in enumerate(body):
        identity = "" if first is None else f' id="row-{first + place}"'
        rows.append(
            f"<tr{identity}>"
            + "".join(_html_cell(cell, name in numbers) for name, cell in zip(headings, cells, strict=True))
            + "</tr>"
        )
    return (
        f'<div class="tools" hidden></div><div class="scroll" role="region" tabindex="0" aria-label="{text_of(title)}">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(rows)}</tbody></table></div>"
    )


def _html_cell(cell: Cell, is_number: bool) -> str:
    number = "" if cell.number is None else f' data-number="{cell.number:.12g}"'
    bar = "" if cell.bar is None else _BAR.format(width=100 * cell.bar)
    kind = " class=number" if is_number else " class=long" if len(cell.text) > _LONG else ""
    return f"<td{kind}{number}>{text_of(cell.text)}{bar}</td>"


def measured_table(key: BlockKey, rows: Sequence[Row], first: int) -> tuple[str, list[str]]:
    """Return the table of measured rows and, in words, the columns of the Markdown table that it leaves out.

    A column with one text in all rows is left out, unless it is a score or a cost.
    """
    columns = shown_columns(key, rows)
    shared = []
    for name in [
        name for name in columns if len(rows) > 1 and (name in _CHOICES or name in ("Seeds", "Other settings"))
    ]:
        if len(texts := {columns[name](row) for row in rows}) == 1:
            shared.append(f"{name.lower()}: {texts.pop()}")
            del columns[name]
    body = [[Cell(cell(row), _number_of(name, row)) for name, cell in columns.items()] for row in rows]
    numbers = {name for name in columns if any(_number_of(name, row) is not None for row in rows)}
    return html_table(f"{key.dataset}, {key.split}", list(columns), body, numbers=numbers, first=first), shared


def _number_of(heading: str, row: Row) -> float | None:
    if heading in _COUNTS:
        value = getattr(row, _COUNTS[heading])
        return None if value is None else float(value)
    if heading.startswith("MACs"):
        return row.backbone_macs
    score, _, stage = heading.partition(" ")
    estimates: Mapping[str, Estimate] = {"mAP": row.mAP, "Accuracy": row.accuracy}.get(score, {})
    if heading == "Own tags" and AGREEMENT[0] in row.agreement:
        return row.agreement[AGREEMENT[0]].mean
    stages = {"no recovery": ("dense", "pruned"), "fine-tuned": ("finetuned",)}.get(stage, (stage,))
    return next((estimates[each].mean for each in STAGES if each in stages and each in estimates), None)


def class_table(classes: Sequence[ClassScores]) -> str:
    """Return the average precision of each class in each evaluation, with a bar."""
    names = list(dict.fromkeys(name for scores in classes for name, _, _ in scores.rows))
    by_class = [{name: (count, ap) for name, count, ap in scores.rows} for scores in classes]
    headings = ["Class", "Positive clips", *(f"AP {scores.name}" for scores in classes)]
    body = []
    for name in names:
        counts = [found[name][0] for found in by_class if name in found]
        cells = [Cell(name), Cell(f"{counts[0]:,}", counts[0])]
        for found in by_class:
            ap = found.get(name, (0, None))[1]
            cells.append(Cell(MISSING if ap is None else f"{ap:.3f}", ap, ap))
        body.append(cells)
    return html_table("Average precision by class", headings, body, numbers=set(headings[1:]))


def agreement_table(files: Sequence[AgreementFile]) -> str:
    """Return the means of each comparison."""
    titles = dict(zip(AGREEMENT, ("mAP of own tags", "Correlation of logits", "Kendall's tau"), strict=True))
    headings = ["Folder", "Pruned", "Unpruned", "Data", *titles.values()]
    body = []
    for each in files:
        scores = [each.scores[name] for name in titles]
        numbers = [Cell(MISSING if score is None else f"{score:.4f}", score) for score in scores]
        body.append([Cell(each.name), Cell(each.pruned), Cell(each.dense), Cell(each.dataset), *numbers])
    return html_table("Agreement with the unpruned network", headings, body, numbers=set(titles.values()))
