"""``epanns search``: the Pareto front of cost and score over widths, criterion and recovery."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.shared.options import (
    EXISTING,
    EXISTING_FILE,
    SEED,
    EpannsCommand,
    device_option,
    json_option,
    out_option,
    torch_device,
)
from epanns.cli.shared.packs import in_order_of, open_packs, pack_options
from epanns.cli.shared.terminal import emit, log
from epanns.errors import ConfigError
from epanns.process import keep_freed_memory

if TYPE_CHECKING:
    from epanns.stages.search import OnTrial, Point, SearchResult
    from epanns.stages.search_space import SearchConfig

_PROBLEMS = 3  # reasons without a network in the text; --json has all of them


@click.command("search", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=EXISTING)
@click.option(
    "--data",
    "packs",
    type=EXISTING,
    multiple=True,
    required=True,
    help="Pack of clips to score, not the test clips; may be repeated.",
)
@click.option(
    "--budget", required=True, help="Kind (macs, params, bytes) and range of costs: macs:0.1..0.5, or params:1M..20M."
)
@out_option("Folder of the search. The same command resumes it; with more --trials it continues.")
@click.option("--trials", type=click.IntRange(1), default=50, show_default=True, help="Number of proposed networks.")
@click.option(
    "--score",
    type=click.Choice(["agreement", "labels"]),
    default="agreement",
    show_default=True,
    help="agreement: mAP of the unpruned network's own tags, without labels. labels: mAP, with --map zero-shot.",
)
@click.option(
    "--map",
    "class_map",
    type=EXISTING_FILE,
    help="Class map, for --score labels on clips of other classes.",
)
@click.option("--criteria", default="l1,activation", show_default=True, help="Comma-separated criteria to choose from.")
@click.option(
    "--recover",
    "recoveries",
    help="Comma-separated recoveries to choose from, as in `epanns prune`.  [default: bn,ls; none,ls where batch norms "
    "are folded]",
)
@click.option("--layers", help="Comma-separated layers or blocks.  [default: all]")
@click.option(
    "--round-to", type=click.IntRange(1), default=1, show_default=True, help="Multiple that widths are rounded to."
)
@click.option(
    "--calibration", type=EXISTING, help="Pack of clips for recoveries and criteria.  [default: the scored clips]"
)
@click.option(
    "--calibration-clips", type=click.IntRange(1), default=256, show_default=True, help="Largest number of these clips."
)
@pack_options
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the proposals and of the calibration.")
@device_option
@click.option("--fresh", is_flag=True, help="Delete an earlier search in --out and start over.")
@json_option
def command(
    checkpoint: Path,
    packs: tuple[Path, ...],
    budget: str,
    out: Path,
    trials: int,
    score: str,
    class_map: Path | None,
    criteria: str,
    recoveries: str | None,
    layers: str | None,
    round_to: int,
    calibration: Path | None,
    calibration_clips: int,
    labels_file: Path | None,
    mp3_seconds: float,
    seed: int,
    device: str,
    fresh: bool,
    as_json: bool,
) -> None:
    """Search smaller networks of CKPT: those that score best at each cost in --budget.

    A trial prunes CKPT to a budget in the range, recovers it without labels and scores it. The search varies the
    budget, the share of channels that each block keeps, the criterion and the recovery; Optuna proposes the next
    network from the earlier ones. The first three trials have one ratio for all layers.

    Writes a run record for each network (`epanns report OUT` makes tables and figures of them), front.json, and the
    checkpoints of the front below front. Choose and report on different clips: the front is the best of many
    networks on these clips.
    """
    from epanns.evaluation.class_map import ClassMap
    from epanns.models.files.load import load
    from epanns.stages.search import search
    from epanns.stages.search_space import BudgetRange, SearchConfig, require_optuna

    require_optuna()
    if class_map is not None and score != "labels":
        raise ConfigError(f"--map {class_map} uses labels: give --score labels too, or leave it out")
    config = SearchConfig(
        BudgetRange.parse(budget),
        criteria=_names(criteria),
        recoveries=None if recoveries is None else _names(recoveries),
        layers=None if layers is None else _names(layers),
        round_to=round_to,
        score="mAP" if score == "labels" else score,
        class_map=None if class_map is None else ClassMap.from_csv(class_map),
        calibration_clips=calibration_clips,
        seed=seed,
        trials=trials,
    )
    device = torch_device(device)
    keep_freed_memory()
    model = load(checkpoint).to(device)
    rate = model.spec.front_end.sample_rate

    dataset, clips = (
        in_order_of(model, open_packs(paths, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate))
        if paths
        else None
        for paths in (packs, () if calibration is None else (calibration,))
    )
    assert dataset is not None
    found = search(model, dataset, config, out, calibration=clips, on_trial=_trial_logger(config), fresh=fresh)
    result = {"out": str(out), **found.to_dict(config.budgets.kind, config.score)}
    emit(result, describe(found, config, out), as_json)


def describe(found: "SearchResult", config: "SearchConfig", out: Path) -> str:
    """Return the front as a table in words, and the numbers of trials."""
    kind, score = config.budgets.kind, "own tags" if config.score == "agreement" else "mAP"
    lines = [
        f"{'':<14}{'% of ' + kind:>12}{score:>10}  criterion, recovery",
        f"{'unpruned':<14}{'100':>12}{found.dense[1]:>10.4f}",
        *(
            f"{point.record.trial_id:<14}{100 * point.cost / found.dense[0]:>12.1f}{point.score:>10.4f}  "
            f"{point.record.criterion}, {point.record.recover}"
            for point in found.front
        ),
        f"{found.n_trials} trials, {found.n_points} different networks, {len(found.front)} on the front",
    ]
    if found.problems:
        lines.append(
            f"no network fits {len(found.problems)} of the proposals: " + "; ".join(found.problems[:_PROBLEMS])
        )
    return "\n".join([*lines, f"in {out}: front.json, front, trials; tables and figures: epanns report {out}"])


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _trial_logger(config: "SearchConfig") -> "OnTrial":
    """Return a function that logs each trial."""
    score = "own tags" if config.score == "agreement" else "mAP"

    def log_trial(number: int, point: "Point | None", found: "SearchResult") -> None:
        where = f"[{number}/{config.trials}]"
        if point is None:
            log(f"{where} no network: {found.problems[-1]}")
            return
        record, share = point.record, 100 * point.cost / found.dense[0]
        text = f"{where} {share:.1f} % of {config.budgets.kind}, {record.criterion}, {record.recover}"
        text += f": {score} {point.score:.4f}"
        if point.trial < number:
            text += f", the network of trial {point.trial}"
        log(text + ("; on the front" if point in found.front else ""))

    return log_trial
