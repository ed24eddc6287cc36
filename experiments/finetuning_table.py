"""Write the tables and the figure of the fine-tuning experiment: ``python experiments/finetuning_table.py``.

The input is ``results/finetuning/*/records``. A run *reaches* the unpruned network at the first validation whose mAP
is at least that of the unpruned network on the same clips. A run that never does is *censored*: it needs more than its
iterations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from finetuning_figure import finetuning_figure

from epanns.records import RunRecord, read_records
from epanns.reporting.figures.style import save
from epanns.reporting.notation import mean_and_sd
from epanns.reporting.report import insert_table
from epanns.reporting.tables import markdown_table

ROOT = Path(__file__).parents[1]
TARGET = 5  # times fewer iterations; set before the experiment


class Way(NamedTuple):
    """How a pruned network is recovered and fine-tuned."""

    recover: str
    taught: bool
    iterations: int
    rate: float

    @property
    def start(self) -> str:
        """Network that fine-tuning starts from."""
        return "as cut" if self.recover == "none" else f"`{self.recover}`"

    @property
    def source(self) -> str:
        """Targets of fine-tuning."""
        return "labels and unpruned network" if self.taught else "labels"


@dataclass(frozen=True)
class Run:
    """One network, pruned, recovered or not, and fine-tuned.

    Attributes:
        curve: Iteration and mAP of every validation.
        goal: mAP of the unpruned network on the same clips.
        test: mAP on the test clips of the weights with the best validation.
        dense_test: mAP on the test clips of the unpruned network.
    """

    seed: int
    way: Way
    curve: Sequence[Sequence[float]]
    goal: float
    test: float
    dense_test: float

    @property
    def reached(self) -> int | None:
        """Iterations until the goal is reached; None for a censored run."""
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
    """Return the comparison, the results of each way and the learning rates tried, in Markdown."""
    runs = runs_of(records)
    return "\n\n".join([target_table(runs), way_table(runs), rate_table(runs)])


def target_table(runs: Sequence[Run]) -> str:
    """Return for each seed the fewest iterations on labels from the plain cut, and with distillation from `ls`.

    Of several training lengths the one that reaches the goal first counts.
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
    """Return a row for each way with several seeds."""
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
    """Return a row for each rate of the ways with several rates, on the seed that the rate was chosen with."""
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


def ways_of_figure(records: Iterable[RunRecord]) -> dict[str, list[Run]]:
    """Return the longest runs of both sides of the comparison."""
    runs = _several_seeds(runs_of(records))
    plain = [run for run in runs if run.way[:2] == ("none", False)]
    taught = [run for run in runs if run.way[:2] == ("ls", True)]
    return {"as cut, labels": _longest(plain), "ls, labels and unpruned network": _longest(taught)}


def write_figure(out: Path, records: Iterable[RunRecord]) -> None:
    """Write ``esc50.svg``."""
    title = "ESC-50: fine-tuning after pruning"
    remark = "validation mAP less that of the unpruned network; half of the filters of C7-C12 pruned by L1; "
    remark += "thin: seeds, thick: mean"
    figure = finetuning_figure(title, remark, ways_of_figure(records))
    save(figure, out, "esc50", title=f"{title}: {remark}", images=False)


def _longest(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.way.iterations == max(run.way.iterations for run in runs)]


def _several_seeds(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of the ways with several seeds."""
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
    write_figure(folder, records)
