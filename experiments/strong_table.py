"""Write the table of the strong networks: ``python experiments/strong_table.py [OUT of experiments/strong/run.sh]``.

With OUT, the records and metrics of finished networks are first copied to ``results/strong/NETWORK``; the table is made
from these files. A run has converged if its score no longer rises, so the table shows it at 80, 90 and 100 % of steps.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from epanns.records import RunRecord, read_record
from epanns.reporting.notation import mean_and_sd
from epanns.reporting.report import insert_table
from epanns.reporting.tables import markdown_table
from epanns.training.metrics import LINES, read_metrics

RESULTS = Path(__file__).parents[1] / "results" / "strong"
RECORD = "result.json"
SHARES = (0.8, 0.9, 1.0)  # of the steps of a run, at which its score is shown


class Strong(NamedTuple):
    """A trained network.

    Attributes:
        record: Its record on the reported fold.
        curve: Step and mAP on the reported fold of every validation, of which none was chosen.
    """

    record: RunRecord
    curve: Sequence[tuple[float, float]]

    @property
    def score(self) -> float:
        """Macro mAP of the kept weights."""
        return float(next(iter(self.record.stages[0].scores.values()))["mAP"] or 0.0)

    def at(self, share: float) -> float:
        """Return the score of the first validation at or after a share of the steps."""
        last = self.curve[-1][0]
        return next(score for step, score in self.curve if step >= share * last)


def collect(out: Path, results: Path) -> None:
    """Copy records and metrics of the finished networks of ``run.sh``."""
    for record in sorted(out.glob(f"scored/*/{RECORD}")):
        name = record.parent.name
        (results / name).mkdir(parents=True, exist_ok=True)
        for file in (record, out / name / LINES):
            shutil.copy(file, results / name / file.name)


def read_strong(results: Path) -> list[Strong]:
    """Return the networks of a folder, by width and seed."""
    found = []
    for path in results.glob(f"*/{RECORD}"):
        curve = [(row["step"] or 0.0, row["mAP"] or 0.0) for row in read_metrics(path.parent)]
        found.append(Strong(read_record(path), curve))
    return sorted(found, key=lambda each: (each.record.width, each.record.seed))


def table_of(networks: Sequence[Strong]) -> str:
    """Return a row for each network, and the mean of each width with several seeds."""
    rows = []
    for each in networks:
        steps = [f"{each.at(share):.3f}" for share in SHARES]
        rows.append([name_of(each), str(each.record.seed), f"{each.curve[-1][0]:,.0f}", *steps, f"{each.score:.3f}"])
    for name in dict.fromkeys(map(name_of, networks)):
        seeds = [each for each in networks if name_of(each) == name]
        if len(seeds) > 1:
            rows.append([name, f"mean of {len(seeds)}", "", "", "", "", mean_and_sd([each.score for each in seeds])])
    header = ["network", "seed", "steps", *(f"mAP at {share:.0%} of the steps" for share in SHARES), "mAP, fold 5"]
    return markdown_table(header, rows)


def name_of(network: Strong) -> str:
    """Return model and width."""
    return f"{network.record.model} x {network.record.width:g}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]), RESULTS)
    insert_table(RESULTS / "README.md", "strong", table_of(read_strong(RESULTS)))
