"""Write the tables of networks trained on AudioSet, pruned without labels: ``python experiments/zero_shot_table.py``.

The input is ``results/zero-shot/NETWORK/NAME/agreement.json`` of ``epanns agree --out`` and ``NAME.json`` of
``epanns profile --json``; the page lists the commands.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from epanns.reporting.notation import markdown_table
from epanns.reporting.report import insert_table

RESULTS = Path(__file__).parents[1] / "results" / "zero-shot"
NETWORKS = ("yamnet", "mn04")
DENSE = "unpruned"
METHODS = {
    "half_plain": "`--method plain`",
    "half": "`--method auto`",
    "quarter_plain": "`--method plain`",
    "quarter": "`--method auto`",
}


class Pruned(NamedTuple):
    """A pruned network.

    Attributes:
        macs: MACs, as a fraction of the unpruned network's.
        params: Parameters, as a fraction of the unpruned network's.
        agreement: Values of ``agreement.json``.
    """

    macs: float
    params: float
    agreement: dict[str, Any]


def read_pruned(results: Path, name: str) -> Pruned:
    """Return a network of a folder."""
    dense, pruned = (json.loads((results / f"{each}.json").read_text()) for each in (DENSE, name))
    macs, params = (pruned[key] / dense[key] for key in ("backbone_macs", "n_params"))
    return Pruned(macs, params, json.loads((results / name / "agreement.json").read_text()))


def table_of(results: Path) -> str:
    """Return a row for the unpruned network and for each pruned one."""
    found = {name: read_pruned(results, name) for name in METHODS}
    dense = found["half"].agreement["zero_shot"]["dense"]
    rows = [["unpruned", "100 %", "100 %", _with_interval(dense), "100 %", "1", "1", "1"]]
    for name, method in METHODS.items():
        agreement = found[name].agreement
        zero_shot = agreement["zero_shot"]
        of_outputs = [f"{agreement[key]:.3f}" for key in ("tag_mAP", "correlation", "tau")]
        kept = f"{100 * zero_shot['kept']:.1f} %"
        costs = [f"{100 * share:.0f} %" for share in (found[name].macs, found[name].params)]
        rows.append([method, *costs, _with_interval(zero_shot["pruned"]), kept, *of_outputs])
    header = ["pruned by", "MACs left", "parameters left", "zero-shot mAP (95 % by recording)", "of unpruned"]
    return markdown_table([*header, "mAP of own tags", "correlation", "Kendall's tau"], rows)


def _with_interval(scores: dict[str, Any]) -> str:
    low, high = scores["by_group"]["mAP_interval"]
    return f"{scores['mAP']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    for network in NETWORKS:
        insert_table(RESULTS / "README.md", network, table_of(RESULTS / network))
