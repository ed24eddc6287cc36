"""Names of trials and bases for messages and lines of progress."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epanns.labels import DECISIVE_SCORES
from epanns.records import RunRecord
from epanns.safe_text import printable
from epanns.sweeps.base import BaseConfig
from epanns.training.metrics import STEP_0_KEPT


def base_in_words(base: BaseConfig) -> str:
    """Return the name of a base: its label, its model and width, or its checkpoint."""
    if base.checkpoint:
        return base_name(base.name, "", 1.0, base.checkpoint)
    return base_name(base.name, base.model, base.width, "")


def base_name(label: str, model: str, width: float, checkpoint: str) -> str:
    """Return a base in words: its label, or else its checkpoint, or model and width."""
    if label:
        return printable(label)
    if checkpoint:
        return printable(Path(checkpoint).name or checkpoint)
    return model if width == 1 else f"{model} x {width:g}"


def amount_in_words(config: Mapping[str, Any]) -> str:
    """Return what a trial's configuration removes, in words."""
    if "ratios" in config:
        return printable("ratios " + ", ".join(f"{layer} {ratio:g}" for layer, ratio in config["ratios"].items()))
    amount = config["budget"] if "budget" in config else f"ratio {config['ratio']:g}"
    layers = config.get("layers")
    return printable(amount if layers is None else f"{amount} of {', '.join(layers)}")


def trial_in_words(asked: Mapping[str, Any]) -> str:
    """Return the name of a trial: base, criterion, amount, recovery, fine-tuning and seed.

    Args:
        asked: What ``config.json`` of its folder holds.
    """
    config = asked["config"]
    base = config.get("base", config)
    parts = [base_name(asked.get("name", ""), base.get("model", ""), base.get("width", 1.0), asked["checkpoint"])]
    if config["kind"] == "base":
        parts += ["unpruned"]
    elif config.get("ratio") == 0:
        parts += ["unpruned, trained on"]
    else:
        parts += [config["criterion"], amount_in_words(config)]
        parts += [] if config["recover"] == "none" else [config["recover"]]
    if "finetune" in config:
        parts += [f"{config['finetune']['iterations']:,} iterations"]
    return ", ".join([*parts, f"seed {config['seed']}"])


def result_in_words(record: RunRecord) -> str:
    """Return the scores of a trial's last stage, the seconds it took, and whether its training was of use."""
    last = record.stages[-1]
    multi, single = DECISIVE_SCORES["multi-label"], DECISIVE_SCORES["single-label"]
    scores = []
    for split, summary in reversed([*last.scores.items()]):
        score = single if summary.get(single) is not None else multi
        scores.append(f"{split} {score} {summary[score]:.4f}")
    kept = f"; {STEP_0_KEPT}" if last.best_step == 0 else ""
    return f"{', '.join(scores)}, {record.seconds:.1f} s{kept}"
