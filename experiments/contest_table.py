"""Write the tables and figures of the comparison with LEAN: ``python experiments/contest_table.py``.

The input is ``results/lean-contest``: the records of the sweeps and, in ``deployed``, the measurements that
``contest_deploy.py`` made of their networks: size and score in int8, score of whole clips, latency.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contest_figure import contest_figure

from epanns.records import RunRecord, read_records
from epanns.reporting.figures.style import save
from epanns.reporting.notation import mean_and_sd, si
from epanns.reporting.report import insert_table
from epanns.reporting.tables import markdown_table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "lean-contest"
BUDGET = {"parameters": 4.58e6, "multiply-adds": 107.7e6, "bytes in int8": 4.5e6}

TRAINED = "AudioSet (YAMNet)"
UNTRAINED = "none"
HEADINGS = {TRAINED: "YAMNet trained on AudioSet", UNTRAINED: "from random weights"}
ORDER = ("LEAN", "LEAN_affinity", "LEAN_concat", "YAMNet_projection", "YAMNet_linear", "Cnn14_16k")
STAGES = {
    "dense": "",
    "pruned": ", pruned, no recovery",
    "recovered": ", pruned, `ls`",
    "finetuned": ", pruned, `ls`, fine-tuned",
}


@dataclass
class Row:
    """A network of the comparison at one stage, with the results of all seeds.

    Attributes:
        name: Network and stage, as Markdown.
        pretraining: Data on which its weights were trained before the experiment.
        cost: `ModelCost.summary()` for a window.
        by_seed: Seed -> mAP on the test clips.
        deployed: Results of `contest_deploy.py`, one per seed.
        milliseconds: Kind and length -> median over rounds.
    """

    name: str
    pretraining: str
    cost: Mapping[str, Any]
    by_seed: dict[int, float] = field(default_factory=dict)
    deployed: list[Mapping[str, Any]] = field(default_factory=list)
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """The mAP of each seed, in the order of the seeds."""
        return [self.by_seed[seed] for seed in sorted(self.by_seed)]

    @property
    def int8_bytes(self) -> int | None:
        """Size of the largest int8 file; None where the stage has none because fine-tuning follows it."""
        return max((int(each["bytes"]["model.int8.onnx"]) for each in self.deployed), default=None)

    @property
    def is_contender(self) -> bool:
        """Whether LEAN's budget applies: the network is a Cnn14."""
        return self.name.startswith("Cnn14")

    @property
    def is_within(self) -> bool:
        """Whether the network is within LEAN's budget; its int8 size counts where it is known."""
        sizes = {"parameters": self.cost["n_params"], "multiply-adds": self.cost["backbone_macs"]}
        sizes["bytes in int8"] = self.int8_bytes or 0
        return all(size <= BUDGET[name] for name, size in sizes.items())


def rows_of(folder: Path) -> list[Row]:
    """Return the networks of one data set, LEAN's first."""
    deployed = {path.stem: _json(path) for path in (folder.parent / "deployed" / folder.name).glob("*.json")}
    times = deployed.pop("latency", {}).get("milliseconds", {})
    rows: dict[tuple[Any, ...], Row] = {}
    for record in sorted(read_records([folder]), key=_place):
        for stage in record.stages:
            if record.criterion is not None and stage.name == "dense":
                continue
            is_last = stage is record.stages[-1]
            pretraining = TRAINED if "yamnet_sha256" in record.config else UNTRAINED
            name = f"{record.model}{'' if record.width == 1 else f' × {record.width:g}'}{STAGES[stage.name]}"
            name += f" at {record.config['finetune']['learning_rate']:g}" if stage.name == "finetuned" else ""
            row = rows.setdefault((name, pretraining), Row(name, pretraining, record.cost_after))
            if row.cost != record.cost_after:
                raise SystemExit(f"{name}: two networks of different size in one row")
            score = float(stage.scores["test"]["mAP"])  # type: ignore[arg-type]
            if row.by_seed.setdefault(record.seed, score) != score:
                raise SystemExit(f"{name}, seed {record.seed}: two networks with different scores in one row")
            if is_last and record.trial_id in deployed:
                row.deployed.append(deployed[record.trial_id])
            if is_last and record.trial_id in times:
                row.milliseconds = {kind: sorted(each)[len(each) // 2] for kind, each in times[record.trial_id].items()}
    return list(rows.values())


def table_of(rows: Sequence[Row]) -> str:
    """Return the networks as a Markdown table."""
    header = ["network", "pretraining", "mAP", "mAP, whole clip", "parameters", "MACs per 1 s window", "MB, float32"]
    header += [
        "MB, int8",
        "mAP, int8 - float32",
        "ms, torch, 1 s",
        "ms, torch, 10 s",
        "ms, int8, 1 s",
        "ms, int8, 10 s",
    ]
    return markdown_table([*header, "within budget"], [_cells(row) for row in rows])


def write_figure(out: Path, dataset: str, rows: Sequence[Row]) -> None:
    """Write the figure of one data set as SVG."""
    title = f"{dataset}, fold 5"
    remark = "windows of 1 s, half overlapping, mean of scores; thin marks: seeds, large mark: mean; "
    remark += "pruned: of Cnn14_16k × 0.5"
    figure = contest_figure(title, remark, [FigureRow(row) for row in rows])
    save(figure, out, dataset, title=f"{title}: mAP, parameters and multiply-adds of each network", images=False)


class FigureRow:
    """A row with the names that the figure shows."""

    def __init__(self, row: Row) -> None:
        """Replace the names of the network and of its pretraining by short ones."""
        self.name = (
            row.name.replace("Cnn14_16k × 0.5, pruned", "pruned").replace("fine-tuned at", "tuned at").replace("`", "")
        )
        self.pretraining = HEADINGS[row.pretraining]
        self.scores = row.scores
        self.n_params, self.macs = row.cost["n_params"], row.cost["backbone_macs"]


def _cells(row: Row) -> list[str]:
    changes = [each["int8"]["mAP"]["difference"] for each in row.deployed]
    kinds = ("torch 1 s", "torch 10 s", "int8 1 s", "int8 10 s")
    return [
        row.name,
        row.pretraining,
        _estimate(row.scores),
        _estimate([each["whole_clip_mAP"] for each in row.deployed]),
        si(row.cost["n_params"]),
        si(row.cost["backbone_macs"]),
        f"{row.cost['param_bytes'] / 1e6:.2f}",
        "-" if row.int8_bytes is None else f"{row.int8_bytes / 1e6:.2f}",
        _estimate(changes, sign=True),
        *(f"{row.milliseconds[kind]:.3g}" if kind in row.milliseconds else "-" for kind in kinds),
        ("yes" if row.is_within else "no") if row.is_contender and row.int8_bytes else "-",
    ]


def _place(record: RunRecord) -> tuple[Any, ...]:
    is_pretrained = "yamnet_sha256" in record.config
    return (not is_pretrained, ORDER.index(record.model), record.criterion is None, record.width, record.seed)


def _estimate(values: Iterable[float], *, sign: bool = False) -> str:
    found = list(values)
    if not found:
        return "-"
    return f"{mean_and_sd(found, sign=sign)} ({len(found)})"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    found = sorted(path.parent for path in FOLDER.glob("*/records"))
    if not found:
        raise SystemExit(f"{FOLDER}/*/records: no records; run the sweeps of experiments/lean_contest_*.toml first")
    for folder in found:
        rows = rows_of(folder)
        insert_table(FOLDER / "README.md", folder.name, table_of(rows))
        write_figure(FOLDER, folder.name, rows)
