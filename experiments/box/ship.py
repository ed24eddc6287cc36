"""Write the included network and its results: ``python experiments/box/ship.py [OUT of experiments/box/run.sh]``.

With OUT, record, scores of the clips and learning curve are first copied to ``results/box``, and the network is
written with its card into ``epanns/models/included``. The numbers of card, list and page are read from these files.
"""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import epanns
from epanns.complexity.macs import profile
from epanns.models.files.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from epanns.models.files.included import IncludedNetwork
from epanns.models.files.load import load
from epanns.records import RunRecord, read_record
from epanns.reporting.notation import markdown_table, si
from epanns.reporting.report import insert_table
from epanns.statistics.bootstrap import mean_interval
from epanns.training.metrics import LINES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "box"
INCLUDED = Path(epanns.__file__).parent / "models" / "included"
NAME = "esc50"
LICENCE = "CC BY-NC 3.0"
RECORD, SCORES, FACTS = "result.json", "scores.npz", "network.json"
CURVE = "finetuned.jsonl"

_CARD = """\
## What it is for

It tags the 50 classes of ESC-50 and was made to try `epanns` on sound without a download. `experiments/box/run.sh`
made it of EfficientAT's mn04, a network trained on AudioSet (Schmid et al. 2023; MIT licence, copyright notice in
`LICENSE-EfficientAT.txt` beside this folder): pruned to half of its MACs without labels (`--method auto` on the clips
of folds 1 to 4 of ESC-50), then fine-tuned on the labels of folds 1 to 3.

{table}

The scores are those of these weights on clips that were used neither for pruning nor for training; nothing was chosen
by them. The copy of ESC-50 has 16 kHz and 8 bit, so sound above 8 kHz was absent from training and from the test.

## What it is not for

- Anything but the 50 classes: other sound, speech and music among it, gets low scores or those of a class it resembles.
- Alarms, monitoring, or any use in which a missed or invented sound does harm.
- Comparisons: it is one run on one split; published results on ESC-50 are means over five.
- Commercial use, see below.

## Licence of these weights

{licence}: they were trained on ESC-50 (K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015;
clips from Freesound), which is under CC BY-NC 3.0, its ESC-10 part under CC BY 3.0. Name the source, and do not use
them commercially. The code of epanns, and networks that you train with it on other data, are not concerned.
"""


def collect(out: Path) -> None:
    """Copy the record, the scores of the clips and the learning curve of ``run.sh``, and write the network."""
    for name in (RECORD, SCORES):
        shutil.copy(out / "scored" / name, RESULTS / name)
    shutil.copy(out / "finetuned" / LINES, RESULTS / CURVE)
    cost, stored = profile(load(out / "stored"), seconds=10.0), load_checkpoint(out / "stored")
    facts = {
        "n_params": cost.n_params,
        "backbone_macs": cost.backbone_macs,
        "bytes": (out / "stored" / WEIGHTS).stat().st_size,
        "sha256": stored.provenance.sha256,
        "sample_rate": cost.sample_rate,
    }
    (RESULTS / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    digest = save_checkpoint(
        load(out / "finetuned"), INCLUDED / NAME, storage="float16", card=card_of(RESULTS), overwrite=True
    )
    assert digest == facts["sha256"], "the weights in the package are not the ones that were scored"
    entry = asdict(entry_of(RESULTS))
    text = json.dumps({"format": "epanns-included/1", "networks": [entry]}, indent=2, ensure_ascii=False)
    (INCLUDED / "included.json").write_text(text + "\n")


def entry_of(results: Path) -> IncludedNetwork:
    """Return the entry of the network in the list of the package."""
    record, facts = read_results(results)
    scores = scores_of(record)
    return IncludedNetwork(
        NAME,
        "mn04",
        "50 classes of ESC-50",
        facts["sample_rate"],
        facts["n_params"],
        facts["backbone_macs"],
        facts["bytes"],
        facts["sha256"],
        "fold 5 of ESC-50 at 16 kHz and 8 bit",
        round(scores["mAP"], 4),
        round(accuracy_of(results / SCORES)["accuracy"], 4),
        LICENCE,
    )


def card_of(results: Path) -> str:
    """Return the section of the model card."""
    return _CARD.format(table=table_of(results), licence=LICENCE)


def table_of(results: Path) -> str:
    """Return scores, with intervals by recording, and costs."""
    record, facts = read_results(results)
    scores, accuracy = scores_of(record), accuracy_of(results / SCORES)
    (intervals,) = record.intervals.values()
    rows = [
        ["mAP", _with_interval(scores["mAP"], intervals["by_group"]["mAP"])],
        ["accuracy of the highest score", _with_interval(accuracy["accuracy"], accuracy["interval"])],
        ["clips, recordings", f"{scores['n_clips']:,}, {intervals['by_group']['n_groups']:,}"],
        ["mAP on fold 4, the validation fold", f"{last_score(results / CURVE):.3f}"],
        ["parameters", f"{facts['n_params']:,}"],
        ["MACs for 10 s", si(facts["backbone_macs"])],
        ["bytes of the weights", f"{facts['bytes']:,}"],
    ]
    return markdown_table(["fold 5 of ESC-50", "(95 % interval by recording)"], rows)


def read_results(results: Path) -> tuple[RunRecord, dict[str, Any]]:
    """Return the record and the facts about the weights."""
    return read_record(results / RECORD), json.loads((results / FACTS).read_text())


def scores_of(record: RunRecord) -> dict[str, Any]:
    """Return the scores of the reported fold."""
    ((_, scores),) = record.stages[0].scores.items()
    return dict(scores)


def accuracy_of(path: Path) -> dict[str, Any]:
    """Return the share of clips whose class has the highest score, and its interval by recording.

    Args:
        path: ``scores.npz`` of ``epanns evaluate --group-pattern``; every clip has one class.
    """
    with np.load(path, allow_pickle=False) as file:
        scores, target, groups = (file[name] for name in ("scores", "target", "groups"))
    assert (target.sum(axis=1) == 1).all()
    is_right = scores.argmax(axis=1) == target.argmax(axis=1)
    return {"accuracy": float(is_right.mean()), "interval": mean_interval(is_right, groups=groups)}


def last_score(curve: Path) -> float:
    """Return the validation mAP after the last step of a learning curve."""
    return float(json.loads(curve.read_text().splitlines()[-1])["mAP"])


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    insert_table(RESULTS / "README.md", "box", table_of(RESULTS))
