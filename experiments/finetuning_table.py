"""Put what came of the fine-tuning experiment into the documents: ``python experiments/finetuning_table.py``.

Everything is made of the records in ``results/finetuning/*/records``. A run has *reached* the unpruned network at the
first validation whose mAP is at least the unpruned network's on the same clips; a run that never did is *censored*: it
would have taken more than its iterations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from finetuning_figure import finetuning_chart

from epanns.atomic import write_text
from epanns.records import RunRecord, read_records
from epanns.reporting.layout import lay_out
from epanns.reporting.report import insert_table
from epanns.reporting.svg import to_svg
from epanns.reporting.tables import markdown_table
from epanns.reporting.units import mean_and_sd

ROOT = Path(__file__).parents[1]
TARGET = 5  # times fewer iterations, asked for beforehand


class Way(NamedTuple):
    """How a cut network was brought back."""

    recover: str
    taught: bool
    iterations: int
    rate: float

    @property
    def start(self) -> str:
        """What the training starts from."""
        return "as cut" if self.recover == "none" else f"`{self.recover}`"

    @property
    def source(self) -> str:
        """What the training learns from."""
        return "labels and unpruned network" if self.taught else "labels"


@dataclass(frozen=True)
class Run:
    """One network, cut, perhaps recovered, and fine-tuned.

    Attributes:
        curve: Iteration and mAP of every validation.
        goal: The unpruned network's mAP on the same clips.
        test: mAP on the test clips of the weights that were best in validation; `dense_test` of the unpruned network.
    """

    seed: int
    way: Way
    curve: Sequence[Sequence[float]]
    goal: float
    test: float
    dense_test: float

    @property
    def reached(self) -> int | None:
        """Iterations until the goal was reached; None where it never was."""
        return next((int(step) for step, score in self.curve if score >= self.goal), None)


def runs_of(records: Iterable[RunRecord]) -> list[Run]:
    """Return the fine-tuned networks."""
    found = []
    for record in records:
        dense, tuned = record.stage("dense"), record.stage("finetuned")
        if dense is None or tuned is None or record.criterion is None:
            continue
        training = record.config["finetune"]
        way = Way(record.recover, "teacher" in record.config, training["iterations"], training["learning_rate"])
        scores = [dense.scores["val"]["mAP"], tuned.scores["test"]["mAP"], dense.scores["test"]["mAP"]]
        found.append(Run(record.seed, way, tuned.curve, *map(float, scores)))  # type: ignore[arg-type]
    return found


def tables_of(records: Iterable[RunRecord]) -> str:
    """Return the comparison, what each way came to, and the rates that were tried, in Markdown."""
    runs = runs_of(records)
    return "\n\n".join([target_table(runs), way_table(runs), rate_table(runs)])


def target_table(runs: Sequence[Run]) -> str:
    """Return for each seed the fewest iterations of plain cut and labels, and of `ls` and distillation.

    Of several lengths of training on labels the one that got there first counts.
    """
    body = []
    for seed in sorted({run.seed for run in runs}):
        plain = [run for run in _several_seeds(runs) if run.seed == seed and run.way[:2] == ("none", False)]
        taught = [run for run in _several_seeds(runs) if run.seed == seed and run.way[:2] == ("ls", True)]
        slow, fast = _fewest(plain), _fewest(taught)
        longest = max(run.way.iterations for run in plain)
        took = longest if slow is None else slow  # at least
        times = "-" if fast is None else f"{'> ' if slow is None else ''}{took / fast:.3g}" if fast else "all"
        is_met = fast is not None and took >= TARGET * fast
        shown = [f"> {longest}" if slow is None else str(slow)]
        shown.append(f"> {max(run.way.iterations for run in taught)}" if fast is None else str(fast))
        body.append([str(seed), *shown, times, "yes" if is_met else "missed"])
    header = ["seed", "labels alone", "`ls`, labels and unpruned network", "times fewer", f">= {TARGET} times fewer"]
    return markdown_table(header, body)


def way_table(runs: Sequence[Run]) -> str:
    """Return a row for each way that was run with several seeds."""
    body = []
    for way, found in sorted(_by_way(_several_seeds(runs)).items()):
        body.append(
            [
                way.start,
                way.source,
                str(way.iterations),
                f"{way.rate:g}",
                mean_and_sd([run.curve[0][1] - run.goal for run in found], sign=True),
                mean_and_sd([max(score for _, score in run.curve) - run.goal for run in found], sign=True),
                ", ".join(str(run.reached) if run.reached is not None else f"> {way.iterations}" for run in found),
                mean_and_sd([run.test for run in found]),
                mean_and_sd([run.dense_test for run in found]),
            ]
        )
    header = ["start", "learned from", "iterations", "rate", "validation mAP less unpruned: before", "best"]
    return markdown_table([*header, "reached after", "test mAP", "unpruned"], body)


def rate_table(runs: Sequence[Run]) -> str:
    """Return a row for each rate of the ways that were tried with several, on the seed it was chosen with."""
    first = min(run.seed for run in runs)
    body = []
    for way, (run, *_) in sorted(_by_way([run for run in runs if run.seed == first]).items()):
        if sum(other[:3] == way[:3] for other in _by_way(runs)) > 1:
            best = max(score for _, score in run.curve) - run.goal
            reached = str(run.reached) if run.reached is not None else f"> {way.iterations}"
            body.append([way.start, way.source, str(way.iterations), f"{way.rate:g}", f"{best:+.3f}", reached])
    header = [
        f"seed {first}: start",
        "learned from",
        "iterations",
        "rate",
        "best validation mAP less unpruned",
        "reached after",
    ]
    return markdown_table(header, body)


def figure_of(records: Iterable[RunRecord]) -> str:
    """Return the longest runs of both sides of the comparison as SVG."""
    runs = _several_seeds(runs_of(records))
    plain = [run for run in runs if run.way[:2] == ("none", False)]
    taught = [run for run in runs if run.way[:2] == ("ls", True)]
    ways = {"as cut, labels": _longest(plain), "ls, labels and unpruned network": _longest(taught)}
    return to_svg(lay_out(finetuning_chart("ESC-50: fine-tuning after half of the filters went", ways)))


def _longest(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.way.iterations == max(run.way.iterations for run in runs)]


def _several_seeds(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of the ways that were run with more seeds than one."""
    return [run for found in _by_way(runs).values() if len(found) > 1 for run in found]


def _by_way(runs: Iterable[Run]) -> dict[Way, list[Run]]:
    """Return the runs of each way in the order of their seeds."""
    ways: dict[Way, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        ways.setdefault(run.way, []).append(run)
    return ways


def _fewest(runs: Iterable[Run]) -> int | None:
    return min((run.reached for run in runs if run.reached is not None), default=None)


if __name__ == "__main__":
    folder = ROOT / "results" / "finetuning"
    records = read_records([folder])
    tables = tables_of(records)
    insert_table(folder / "README.md", "finetuning", tables)
    write_text(folder / "esc50.svg", figure_of(records))
