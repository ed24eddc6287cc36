"""Write the tables and the figure of the fine-tuning experiment: ``python experiments/finetuning_table.py``.

The input is ``results/finetuning/*/records``. A run *reaches* the unpruned network at the first validation whose mAP
is at least that of the unpruned network on the same clips. A run that does not reach it is *censored*: it would need
more iterations than it has.
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


class Method(NamedTuple):
    """How a pruned network is recovered and fine-tuned."""

    recover: str
    has_teacher: bool
    iterations: int
    rate: float

    @property
    def start(self) -> str:
        """Network that fine-tuning starts from."""
        return "no recovery" if self.recover == "none" else f"`{self.recover}`"

    @property
    def source(self) -> str:
        """Targets of fine-tuning: labels, or labels and the scores of the unpruned network."""
        return "labels and teacher" if self.has_teacher else "labels"


@dataclass(frozen=True)
class Run:
    """One pruned and fine-tuned network, with or without recovery.

    Attributes:
        curve: Iteration and mAP of every validation.
        goal: mAP of the unpruned network on the same clips.
        test: mAP on the test clips of the weights with the best validation.
        dense_test: mAP on the test clips of the unpruned network.
    """

    seed: int
    method: Method
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
        method = Method(record.recover, "teacher" in record.config, training["iterations"], training["learning_rate"])
        scores = [dense.scores["val"]["mAP"], tuned.scores["test"]["mAP"], dense.scores["test"]["mAP"]]
        found.append(Run(record.seed, method, tuned.curve, *map(float, scores)))  # type: ignore[arg-type]
    return found


def tables_of(records: Iterable[RunRecord]) -> str:
    """Return the comparison, the results of each method and the learning rates tried, as Markdown."""
    runs = runs_of(records)
    return "\n\n".join([target_table(runs), method_table(runs), rate_table(runs)])


def target_table(runs: Sequence[Run]) -> str:
    """Return the fewest iterations of each seed: on labels without recovery, and with a teacher after `ls`.

    Of several run lengths, the one that reaches the goal first counts.
    """
    body = []
    for seed in sorted({run.seed for run in runs}):
        plain = [run for run in _several_seeds(runs) if run.seed == seed and run.method[:2] == ("none", False)]
        distilled = [run for run in _several_seeds(runs) if run.seed == seed and run.method[:2] == ("ls", True)]
        slow, fast = _fewest(plain), _fewest(distilled)
        longest = max(run.method.iterations for run in plain)
        lower_bound = longest if slow is None else slow
        times = "-" if fast is None else f"{'> ' if slow is None else ''}{lower_bound / fast:.3g}" if fast else "all"
        is_met = fast is not None and lower_bound >= TARGET * fast
        shown = [f"> {longest}" if slow is None else str(slow)]
        shown.append(f"> {max(run.method.iterations for run in distilled)}" if fast is None else str(fast))
        body.append([str(seed), *shown, times, "met" if is_met else "missed"])
    header = ["seed", "no recovery, labels", "`ls`, labels and teacher", "ratio", f"target: ratio >= {TARGET}"]
    return markdown_table(header, body)


def method_table(runs: Sequence[Run]) -> str:
    """Return a row for each method with several seeds."""
    body = []
    for method, found in sorted(_by_method(_several_seeds(runs)).items()):
        body.append(
            [
                method.start,
                method.source,
                str(method.iterations),
                f"{method.rate:g}",
                mean_and_sd([run.curve[0][1] - run.goal for run in found], sign=True),
                mean_and_sd([max(score for _, score in run.curve) - run.goal for run in found], sign=True),
                ", ".join(str(run.reached) if run.reached is not None else f"> {method.iterations}" for run in found),
                mean_and_sd([run.test for run in found]),
                mean_and_sd([run.dense_test for run in found]),
            ]
        )
    header = ["start", "targets", "iterations", "learning rate", "validation mAP minus unpruned: first", "best"]
    return markdown_table([*header, "reached after", "test mAP", "test mAP, unpruned"], body)


def rate_table(runs: Sequence[Run]) -> str:
    """Return a row for each learning rate of methods with several, on the seed with which it was chosen."""
    first = min(run.seed for run in runs)
    body = []
    for method, (run, *_) in sorted(_by_method([run for run in runs if run.seed == first]).items()):
        if sum(other[:3] == method[:3] for other in _by_method(runs)) > 1:
            best = max(score for _, score in run.curve) - run.goal
            reached = str(run.reached) if run.reached is not None else f"> {method.iterations}"
            body.append(
                [method.start, method.source, str(method.iterations), f"{method.rate:g}", f"{best:+.3f}", reached]
            )
    header = [
        f"seed {first}: start",
        "targets",
        "iterations",
        "learning rate",
        "best validation mAP minus unpruned",
        "reached after",
    ]
    return markdown_table(header, body)


def runs_of_figure(records: Iterable[RunRecord]) -> dict[str, list[Run]]:
    """Return the longest runs of the two methods that are compared."""
    runs = _several_seeds(runs_of(records))
    plain = [run for run in runs if run.method[:2] == ("none", False)]
    distilled = [run for run in runs if run.method[:2] == ("ls", True)]
    return {"no recovery, labels": _longest(plain), "ls, labels and teacher": _longest(distilled)}


def write_figure(out: Path, records: Iterable[RunRecord]) -> None:
    """Write ``esc50.svg``."""
    title = "ESC-50: fine-tuning after pruning"
    remark = "validation mAP minus that of the unpruned network; half of the filters of C7-C12 pruned by L1; "
    remark += "thin: seeds, thick: mean"
    figure = finetuning_figure(title, remark, runs_of_figure(records))
    save(figure, out, "esc50", title=f"{title}: {remark}", images=False)


def _longest(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.method.iterations == max(run.method.iterations for run in runs)]


def _several_seeds(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of the methods with several seeds."""
    return [run for found in _by_method(runs).values() if len(found) > 1 for run in found]


def _by_method(runs: Iterable[Run]) -> dict[Method, list[Run]]:
    """Return the runs of each method in the order of their seeds."""
    methods: dict[Method, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        methods.setdefault(run.method, []).append(run)
    return methods


def _fewest(runs: Iterable[Run]) -> int | None:
    return min((run.reached for run in runs if run.reached is not None), default=None)


if __name__ == "__main__":
    folder = ROOT / "results" / "finetuning"
    records = read_records([folder])
    tables = tables_of(records)
    insert_table(folder / "README.md", "finetuning", tables)
    write_figure(folder, records)
