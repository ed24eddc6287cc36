"""Numbers, layers, settings and table cells as text."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TypeVar

from epanns.safe_text import printable, spreadsheet_cell

MISSING = "–"

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LISTED = 4  # more layers are counted, by the part of the network that they belong to
_LAYER = re.compile(r"conv_block(?P<block>\d+)(?:\.(?P<conv>conv\d+))?")
_PLACE = re.compile(r"(?P<part>.*?)(?P<number>\d+)(?:\..*)?")
_OPERATION = re.compile(r"(\d+)_(\w+)")  # of a recipe, such as 1_train
_WORDS = {"finetune": "fine-tuning", "True": "yes", "False": "no", "None": "none"}

T = TypeVar("T")


def si(value: float | None) -> str:
    """Return a count with three significant digits and a prefix: 23,205,839 is ``23.2 M``; None is a dash."""
    if value is None:
        return MISSING
    for factor, prefix in _PREFIXES:
        if value >= 0.9995 * factor:
            return f"{three_digits(value / factor)} {prefix}"
    return three_digits(value)


def si_tick(value: float) -> str:
    """Return a round count without trailing zeros: 5,000,000 is ``5 M``."""
    factor, prefix = next(((factor, prefix) for factor, prefix in _PREFIXES if value >= 0.9995 * factor), (1.0, ""))
    return f"{value / factor:g} {prefix}".rstrip()


def megabytes(n_bytes: float | None) -> str:
    """Return bytes in units of 10^6, with three significant digits; None is a dash."""
    return MISSING if n_bytes is None else three_digits(n_bytes / 1e6)


def signed_percent(fraction: float) -> str:
    """Return a change as ``−38.1 %``, with a minus sign and one decimal."""
    return f"{fraction * 100:+.1f} %".replace("-", "−")


def mean_and_sd(values: Sequence[float], *, digits: int = 3, sign: bool = False) -> str:
    """Return the mean and, of several values, the sample standard deviation: ``0.612 ± 0.021``."""
    mean = f"{fmean(values):{'+' if sign else ''}.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def three_digits(value: float) -> str:
    """Return a number with three significant digits and no exponent: 80.8, 5.02, 308, 0.0123."""
    for bound, decimals in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if abs(value) >= bound:
            return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"


def short_layers(layers: Sequence[str]) -> str:
    """Return ``blocks 4–6`` for both convolutions of consecutive blocks; a dash for no layer.

    Other layers are listed by name or, where there are many, by the part of the network that they belong to:
    ``conv_block1, resnet.layer1–4 (9 layers)``.
    """
    if not layers:
        return MISSING
    if blocks := _whole_blocks(layers):
        return blocks
    if len(layers) <= _LISTED:
        return ", ".join(layers)
    numbers: dict[str, list[int]] = {}
    for layer in layers:
        match = _PLACE.fullmatch(layer)
        part, number = (match["part"], [int(match["number"])]) if match else (layer, [])
        numbers.setdefault(part, []).extend(number)
    parts = [f"{part}{span}" for part, found in numbers.items() for span in _spans(found) or [""]]
    return f"{', '.join(parts)} ({len(layers)} layers)"


def _whole_blocks(layers: Sequence[str]) -> str | None:
    """Name consecutive blocks ``conv_block`` with the same convolutions in each; None for other layers."""
    convs_of: dict[int, set[str]] = {}
    for match in map(_LAYER.fullmatch, layers):
        if match is None:
            return None
        convs_of.setdefault(int(match["block"]), set()).add(match["conv"] or "")
    convs = next(iter(convs_of.values()))
    spans = _spans(list(convs_of))
    if any(others != convs for others in convs_of.values()) or len(spans) > 1:
        return None
    blocks = f"block {spans[0]}" if len(convs_of) == 1 else f"blocks {spans[0]}"
    return blocks if convs in ({""}, {"conv1", "conv2"}) else f"{blocks}, {' and '.join(sorted(convs - {''}))}"


def _spans(numbers: Sequence[int]) -> list[str]:
    """Return ``["1–3", "5"]`` for 1, 2, 3 and 5, in any order."""
    found = sorted(set(numbers))
    starts = [number for number in found if number - 1 not in found]
    ends = [number for number in found if number + 1 not in found]
    return [str(start) if start == end else f"{start}–{end}" for start, end in zip(starts, ends, strict=True)]


def in_words(setting: str) -> str:
    """Return a setting in words: ``finetune.batch_size=32`` is ``fine-tuning batch size 32``."""
    name, _, value = setting.partition("=")
    parts = [
        f"step {found[1]} ({found[2]})" if (found := _OPERATION.fullmatch(part)) else part for part in name.split(".")
    ]
    words = [_WORDS.get(part, part.replace("_", " ")) for part in parts]
    if name == "budget":
        words.append("of")
    return " ".join([*words, _WORDS.get(value, value)])


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells must be escaped."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(cell: str) -> str:
    """Escape a text so that it neither breaks a Markdown table nor becomes markup."""
    cell = printable(" ".join(cell.split()))
    for character in "\\|`*_<>[]&~$":
        cell = cell.replace(character, f"\\{character}")
    return cell


def without_empty(columns: Mapping[str, Callable[[T], str]], rows: Sequence[T]) -> dict[str, Callable[[T], str]]:
    """Remove the columns whose cells are all missing."""
    return {name: cell for name, cell in columns.items() if any(cell(row) != MISSING for row in rows)}


def csv_text(lines: Sequence[Mapping[str, object]]) -> str:
    """Return CSV with a column for every key; text is made safe for spreadsheets."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        cells = {name: spreadsheet_cell(printable(v)) if isinstance(v, str) else v for name, v in line.items()}
        writer.writerow(cells)
    return text.getvalue()
