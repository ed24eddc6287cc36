"""A comparison of rows as Markdown and CSV, and its folder."""

from pathlib import Path

from epanns import atomic
from epanns.reporting.comparison import RowComparison
from epanns.reporting.notation import MISSING, csv_text, escaped, markdown_table
from epanns.statistics.paired import Difference, Interval


def comparison_markdown(found: RowComparison, *, per_class: int = 0) -> str:
    """Return the scores of the rows, their differences and, of every difference, the largest gains and losses.

    Args:
        found: The comparison.
        per_class: Largest number of gains and of losses; 0 for none.
    """
    sets = f" in {found.n_parts} sets" if found.n_parts > 1 else ""
    title = f"**{escaped(found.dataset)}, {found.n_clips:,} clips{sets}, {escaped(found.protocol)}**"
    parts = [title, _rows_table(found), _differences_table(found)]
    if per_class:
        parts += [_classes_table(found, each, per_class) for each in found.differences]
    return "\n\n".join([*parts, _notes(found)]) + "\n"


def write_comparison(found: RowComparison, out: Path, *, per_class: int = 0) -> list[Path]:
    """Write a new folder: ``comparison.json``, ``table.md``, ``differences.csv`` and ``per_class.csv``."""
    names = [row.name for row in found.rows]
    differences: list[dict[str, object]] = []
    for each, change in zip(found.differences, found.changes, strict=True):
        low, high = each.interval or (None, None)
        differences.append(
            {
                "first": names[each.first],
                "second": names[each.second],
                f"{found.score}_first": found.scores[each.first].mean,
                f"{found.score}_second": found.scores[each.second].mean,
                "difference": each.difference,
                "low": low,
                "high": high,
                "p": each.p,
                "p_holm": each.p_holm,
                "classes_higher": change.higher,
                "classes_lower": change.lower,
                "classes_equal": change.equal,
            }
        )
    classes: list[dict[str, object]] = [
        {
            "index": each.index,
            "name": each.name,
            "n_positive": each.n_positive,
            **{f"ap {name}": ap for name, ap in zip(names, each.ap, strict=True)},
        }
        for each in found.per_class
    ]
    with atomic.new_folder(out) as folder:
        atomic.write_json(folder / "comparison.json", found.to_dict())
        atomic.write_text(folder / "table.md", comparison_markdown(found, per_class=per_class))
        atomic.write_text(folder / "differences.csv", csv_text(differences))
        atomic.write_text(folder / "per_class.csv", csv_text(classes))
    return [out / name for name in ("comparison.json", "table.md", "differences.csv", "per_class.csv")]


def _rows_table(found: RowComparison) -> str:
    has_sd = any(score.sd is not None for score in found.scores)
    header = ["row", found.score, *(["sd"] if has_sd else []), "95 % interval", "networks"]
    body = [
        [
            escaped(row.name),
            f"{score.mean:.4f}",
            *([MISSING if score.sd is None else f"{score.sd:.4f}"] if has_sd else []),
            _interval(score.interval),
            str(score.n),
        ]
        for row, score in zip(found.rows, found.scores, strict=True)
    ]
    return markdown_table(header, body)


def _differences_table(found: RowComparison) -> str:
    several = len(found.differences) > 1
    header = [f"difference of {found.score}", "value", "95 % interval", "p", *(["p, Holm"] if several else [])]
    header += ["classes higher", "lower", "equal"]
    body = []
    for each, change in zip(found.differences, found.changes, strict=True):
        cells = [_pair(found, each), _signed(each.difference), _interval(each.interval, sign=True), _p(each.p, found)]
        cells += [_p(each.p_holm, found)] if several else []
        body.append([*cells, *(str(count) for count in (change.higher, change.lower, change.equal))])
    return markdown_table(header, body)


def _classes_table(found: RowComparison, difference: Difference, most: int) -> str:
    """Return the classes that gain most and those that lose most, with the counts by points."""
    changes = found.changes_of(difference)
    gains = [pair for pair in changes if pair[1] > 0][:most]
    losses = [pair for pair in reversed(changes) if pair[1] < 0][:most]
    first, second = (escaped(found.rows[place].name) for place in (difference.first, difference.second))
    body = [
        [
            escaped(each.name),
            str(each.n_positive),
            f"{each.ap[difference.first]:.3f}",
            f"{each.ap[difference.second]:.3f}",
            _signed(change, digits=3),
        ]
        for each, change in (*gains, *reversed(losses))
    ]
    change = found.changes[found.differences.index(difference)]
    counted = "; ".join(f"{higher} and {lower} by {points:g}" for points, higher, lower in change.by)
    words = f"{_pair(found, difference)}: average precision is higher in {change.higher} classes and lower in "
    words += f"{change.lower} ({counted}, or more), equal in {change.equal}"
    words += f"; {change.undefined} classes without a positive are left out" if change.undefined else ""
    return f"{words}. Largest gains and losses:\n\n" + markdown_table(
        ["class", "positives", first, second, "change"], body
    )


def _notes(found: RowComparison) -> str:
    if not found.resamples:
        return "No intervals: no resamples."
    drawn = f"{found.n_clips:,} clips" if found.n_groups is None else f"{found.n_groups:,} groups of clips"
    seeds = any(len({run.record.seed for run in row.runs}) > 1 for row in found.rows)
    notes = [
        f"{found.resamples:,} paired resamples of {drawn}{', then of the seeds' if seeds else ''}; percentile "
        "intervals; p: two-sided."
    ]
    if len(found.differences) > 1:
        notes.append(f"Holm: corrected for {len(found.differences)} differences.")
    return " ".join(notes)


def _pair(found: RowComparison, difference: Difference) -> str:
    first, second = (escaped(found.rows[place].name) for place in (difference.first, difference.second))
    return f"{second} − {first}"


def _interval(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return MISSING
    return " to ".join(_signed(bound) if sign else f"{bound:.4f}" for bound in interval)


def _signed(value: float, *, digits: int = 4) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _p(value: float | None, found: RowComparison) -> str:
    """Return a p value; the smallest that the resamples can give is a bound."""
    if value is None:
        return MISSING
    least = 2 / (found.resamples + 1)
    return f"<= {value:.2g}" if value <= least * len(found.differences) and value < 1 else f"{value:.2g}"
