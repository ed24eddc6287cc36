r"""Measured rows as LaTeX tables, with the packages booktabs and siunitx.

A document needs ``\usepackage{booktabs,siunitx}``, for tables of more than a page ``\usepackage{longtable}`` too, and
``\input{table.tex}``. The text is ASCII, so that any LaTeX reads it.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from epanns.records import STAGES
from epanns.reporting.notation import MISSING, short_layers
from epanns.reporting.rows import BlockKey, Estimate, Row
from epanns.safe_text import printable

_LONGEST = 40  # rows; longer tables break across pages
_LONGEST_LINE = 44  # characters of a text column; longer texts are wrapped
_WRAPPED = r">{\raggedright\arraybackslash}p{5cm}"
_HEAD = r"""% Made by `epanns report`. Packages: booktabs, siunitx; for tables of more than one page longtable.
"""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \textquotedbl needs a font encoding that not every document has
    "-": "{-}",  # no ligature to a dash
    "'": "{'}",
    "`": r"\textasciigrave{}",
    **{letter: f"\\{letter}" for letter in "$&#_%"},
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "…": r"\ldots{}",
    "†": r"$\dagger$",
    "µ": r"$\mu$",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
# Combining marks -> LaTeX's accents.
_ACCENTS = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": "."},
    **{"\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c"},
}
_STAGE_HEADS = {"pruned": "no recovery", "recovered": "recovered", "finetuned": "fine-tuned", "evaluated": "evaluated"}


class _Column(NamedTuple):
    """Heading, the column's type in the preamble, and its cell for a row; numbers are `is_number`."""

    heading: str
    kind: str
    cell: Callable[[Row], str]
    group: str = ""


def latex_escaped(text: str) -> str:
    r"""Return a text as LaTeX in ASCII, with nothing that LaTeX reads as a command.

    Letters with common accents become LaTeX's accents; any other letter that is not ASCII becomes its code point, as
    ``U+4E2D``.
    """
    found = []
    for letter in printable(" ".join(text.split())):
        if letter in _SPECIAL:
            found.append(_SPECIAL[letter])
        elif letter.isascii():
            found.append(letter)
        else:
            parts = unicodedata.normalize("NFD", letter)
            if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
                found.append(f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}")
            else:
                found.append(f"U+{ord(letter):04X}")
    return "".join(found)


def measured_latex(blocks: Mapping[BlockKey, Sequence[Row]]) -> str:
    r"""Return one table per block, in the order of the Markdown table.

    Settings that all rows of a block share are in its caption. Scores with a deviation are written ``0.612(21)``, which
    siunitx prints as 0.612 ± 0.021. The label of a table is ``tab:epanns-1``, ``tab:epanns-2``, and so on.
    """
    tables = [_table(key, rows, number) for number, (key, rows) in enumerate(blocks.items(), start=1)]
    return _HEAD + "\n".join(tables)


def standalone_document(name: str = "table.tex") -> str:
    """Return a document that prints the tables of a file beside it."""
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[margin=1.5cm,landscape]{geometry}",
            r"\usepackage{booktabs,longtable,siunitx}",
            r"\begin{document}",
            rf"\input{{{name}}}",
            r"\end{document}",
            "",
        ]
    )


def _table(key: BlockKey, rows: Sequence[Row], number: int) -> str:
    columns, shared = _columns(rows)
    caption = [f"{key.dataset}, {key.split}: {key.protocol}, {key.clip_seconds:g} s input", *shared]
    seeds = sorted({row.n_seeds for row in rows})
    if seeds != [1]:
        caption.append(
            f"mean and standard deviation over {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds"
        )
    caption.append(f"MACs per {key.clip_seconds:g} s without the front end")
    title = rf"\caption{{{latex_escaped('; '.join(caption))}.}}\label{{tab:epanns-{number}}}"
    kinds = "".join(column.kind for column in columns)
    head = [r"\toprule", *_head(columns), r"\midrule"]
    body = [" & ".join(column.cell(row) for column in columns) + r" \\" for row in rows]
    settings = [r"\footnotesize", r"\sisetup{separate-uncertainty=true, detect-all}", r"\setlength{\tabcolsep}{4pt}"]
    if len(rows) > _LONGEST:
        parts = ["{", *settings, rf"\begin{{longtable}}{{{kinds}}}", rf"{title}\\"]
        parts += [*head, r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}", "}"]
    else:
        parts = [r"\begin{table}", r"\centering", title, *settings, rf"\begin{{tabular}}{{{kinds}}}"]
        parts += [*head, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _head(columns: Sequence[_Column]) -> list[str]:
    """Return the lines of the head: a line of groups with rules below it, where there are groups, and the headings."""
    lines, rules, groups = list[str](), list[str](), list[tuple[str, int]]()
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    if any(name for name, _ in groups):
        place = 1
        for name, count in groups:
            if name:
                rules.append(rf"\cmidrule(lr){{{place}-{place + count - 1}}}")
            place += count
        cells = [rf"\multicolumn{{{count}}}{{c}}{{{name}}}" if name else " &" * (count - 1) for name, count in groups]
        lines = [" & ".join(cells) + r" \\", "".join(rules)]
    return [*lines, " & ".join(f"{{{column.heading}}}" for column in columns) + r" \\"]


def _columns(rows: Sequence[Row]) -> tuple[list[_Column], list[str]]:
    """Return the columns in which rows differ, and in words the settings that they share."""
    texts: dict[str, Callable[[Row], str]] = {
        "Experiment": lambda row: row.experiment,
        "Name": lambda row: row.name or MISSING,
        "Network": lambda row: row.network,
        "Criterion": lambda row: row.variant,
        "Layers": lambda row: short_layers(row.layers),
        "Budget": lambda row: row.budget or MISSING,
        "Recovery": lambda row: row.recover if row.recover != "none" else MISSING,
        "Settings": lambda row: ", ".join(row.settings_in_words) or MISSING,
    }
    columns, shared = list[_Column](), list[str]()
    for heading, text in texts.items():
        values = {text(row) for row in rows if row.is_pruned or heading not in ("Layers", "Recovery")} - {MISSING}
        if len(values) > 1 or (values and heading in ("Criterion", "Recovery", "Settings")):
            kind = "l" if max(map(len, values)) <= _LONGEST_LINE else _WRAPPED
            columns.append(_Column(heading, kind, partial(_text_cell, text)))
        elif values and heading in ("Network", "Layers"):
            shared += values
    columns += _numbers("Ratio", rows, lambda row: row.ratio if row.is_pruned else None, "g")
    columns += _numbers("Steps", rows, lambda row: row.finetune_iterations or None, "d")
    columns += _numbers("Params (M)", rows, lambda row: row.n_params / 1e6, ".2f")
    if any(row.param_bytes != 4 * row.n_params for row in rows):
        columns += _numbers("MB", rows, lambda row: row.param_bytes / 1e6, ".2f")
    columns += _numbers("MACs (G)", rows, lambda row: row.backbone_macs / 1e9, ".3f")
    columns += _numbers(r"MACs $-$ (\%)", rows, lambda row: 100 * row.mac_reduction if row.is_pruned else None, ".1f")
    columns += _numbers("ms", rows, lambda row: row.latency_ms, ".2f")
    for score, of in (("mAP", _mAP), ("Accuracy", _accuracy)):
        for stage in STAGES[1:]:
            columns += _scores(_STAGE_HEADS[stage], rows, stage, of, score)
    return columns, shared


def _text_cell(text: Callable[[Row], str], row: Row) -> str:
    return latex_escaped(text(row))


def _mAP(row: Row) -> Mapping[str, Estimate]:  # noqa: N802
    return row.mAP


def _accuracy(row: Row) -> Mapping[str, Estimate]:
    return row.accuracy if row.has_accuracy else {}


def _numbers(heading: str, rows: Sequence[Row], of: Callable[[Row], float | None], form: str) -> list[_Column]:
    """Return a column of numbers that are aligned at their points, or none where no row has one."""

    def cell(row: Row) -> str:
        value = of(row)
        return f"{{{'--'}}}" if value is None else format(value, form)

    if all(of(row) is None for row in rows):
        return []
    return [_Column(heading, _kind(map(cell, rows)), cell)]


def _scores(
    heading: str, rows: Sequence[Row], stage: str, of: Callable[[Row], Mapping[str, Estimate]], score: str
) -> list[_Column]:
    """Return the column of a score at a stage, that of `pruned` with the unpruned network, or none without scores."""

    def cell(row: Row) -> str:
        estimate = of(row).get(stage) or (of(row).get("dense") if stage == "pruned" else None)
        if estimate is None:
            return "{--}"
        return f"{estimate.mean:.3f}" + ("" if estimate.sd is None else f"({round(1000 * estimate.sd)})")

    cells = [cell(row) for row in rows]
    return [] if set(cells) == {"{--}"} else [_Column(heading, _kind(cells), cell, score)]


def _kind(cells: Iterable[str]) -> str:
    """Return siunitx's column for numbers of this many digits before and behind the point and in the deviation."""
    before = behind = spread = 0
    for number in (cell for cell in cells if not cell.startswith("{")):
        value, _, deviation = number.rstrip(")").partition("(")
        whole, _, decimals = value.partition(".")
        before, behind, spread = max(before, len(whole)), max(behind, len(decimals)), max(spread, len(deviation))
    return f"S[table-format={before}.{behind}{f'({spread})' if spread else ''}]"
