"""One run per trial in Weights & Biases or MLflow: its settings, its cost and its scores.

The packages' own settings apply, such as ``WANDB_MODE=offline`` and ``MLFLOW_TRACKING_URI``. ``tracked.json`` in the
folder of a trial names the trackers that have it, so that a sweep that is resumed or run in shards sends each trial
once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.errors import ConfigError, DataError
from epanns.packages import install_command, is_installed
from epanns.records import RunRecord
from epanns.sweeps.journal import TrialFolder
from epanns.text_files import read_json

_MARKER = "tracked.json"

Send = Callable[[RunRecord, Path], None]
"""Sends the record of a trial to a tracker; the path is the folder of the sweep."""


def settings_of(record: RunRecord) -> dict[str, Any]:
    """Return the settings of a trial as a flat table without empty values."""
    budget, ratios = record.config.get("budget"), record.config.get("ratios")
    base = record.config.get("base", record.config)
    data = base.get("data", {}) if isinstance(base, Mapping) else {}
    settings = {
        "trial_id": record.trial_id,
        "name": record.name,
        "model": record.model,
        "width": record.width,
        "criterion": record.criterion,
        "layers": ", ".join(record.layers),
        "ratio": record.ratio,
        "ratios": ", ".join(f"{layer}={ratio}" for layer, ratio in ratios.items()) if ratios else None,
        "budget": budget,
        "recover": record.recover,
        "finetune_iterations": record.finetune_iterations,
        "seed": record.seed,
        "fold": data.get("fold"),
        "dataset": record.dataset,
        "protocol": record.protocol,
        "plan_digest": record.plan_digest,
    }
    return {key: value for key, value in settings.items() if value not in (None, "")}


def scores_of(record: RunRecord) -> dict[str, float]:
    """Return the cost and the scores of a trial by name, such as ``finetuned/test/mAP``, without undefined values."""
    scores = {
        f"{stage.name}/{split}/{metric}": value
        for stage in record.stages
        for split, summary in stage.scores.items()
        for metric, value in summary.items()
    }
    cost = {name: record.cost_after[name] for name in ("n_params", "param_bytes", "backbone_macs")}
    found = {**cost, "seconds": record.seconds, **scores}
    return {name: float(value) for name, value in found.items() if value is not None}


def _to_wandb(record: RunRecord, sweep: Path) -> None:
    import wandb

    run = wandb.init(
        project=record.experiment,
        id=record.trial_id,
        name=record.trial_id,
        group=record.name or record.model,
        config=settings_of(record),
        dir=sweep,
        resume="allow",
    )
    run.log(scores_of(record))
    run.finish()


def _to_mlflow(record: RunRecord, sweep: Path) -> None:
    import mlflow

    mlflow.set_experiment(record.experiment)
    with mlflow.start_run(run_name=record.trial_id, tags={"sweep": str(sweep.resolve())}):
        mlflow.log_params(settings_of(record))
        mlflow.log_metrics(scores_of(record))


TRACKERS: Mapping[str, Send] = {"wandb": _to_wandb, "mlflow": _to_mlflow}


def require_tracker(name: str | None) -> None:
    """Raise `ConfigError` if the package of a tracker is not installed; call it before long work."""
    if name is not None and not is_installed(name):
        raise ConfigError(f"--track {name}: {name} is not installed: {install_command(name)}")


def track(folder: TrialFolder, name: str) -> None:
    """Send a finished trial to a tracker, unless the tracker has it.

    Args:
        folder: Folder of the trial.
        name: Key of `TRACKERS`.
    """
    marker = folder.path / _MARKER
    with folder.locked():
        tracked = read_json(marker, error=DataError, remedy="delete it") if marker.exists() else []
        if name not in tracked:
            TRACKERS[name](folder.read_record(), folder.path.parents[1])
            write_json(marker, [*tracked, name])
