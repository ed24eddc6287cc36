"""The recipe of a network's weights: what was done to them, step after step, as JSON values."""

from collections.abc import Mapping, Sequence
from typing import Any

from epanns.errors import did_you_mean

STEPS = ("train", "prune", "recover", "transfer", "finetune")

Step = Mapping[str, Any]

_TEACHING = ("distil_weight", "feature_weight")  # settings of training with a teacher
_LISTED_LAYERS = 4  # more are counted; the plan names them all

# Step -> key -> type. Pruning and recovery have these keys, these optional ones and no others; training may say more.
_KEYS: Mapping[str, Mapping[str, type]] = {
    "train": {},
    "finetune": {},
    "prune": {"criterion": str, "ratios": dict, "seed": int},
    "recover": {"method": str, "clips": int},
    "transfer": {"kept": dict, "new": list},
}
_OPTIONAL: Mapping[str, Mapping[str, type]] = {
    "prune": {"budget": dict},
    "recover": {"errors": dict, "held_out": dict, "fit_to": str, "ridge": float, "mixtures": int}
    | dict.fromkeys(("steps", "best_step", "seed"), int),
}
_TYPES = {str: "text", dict: "a table", list: "a list", int: "a whole number", float: "a number"}


def steps_of(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps that a network's provenance records; none where it says nothing."""
    return [dict(step) for step in provenance.get("recipe") or ()]


def with_step(provenance: Mapping[str, Any], step: str, **settings: Any) -> dict[str, Any]:
    """Return a provenance whose recipe has one step more."""
    return {**provenance, "recipe": [*steps_of(provenance), {"step": step, **settings}]}


def training_step_of(provenance: Mapping[str, Any]) -> str:
    """Return what training is to these weights: ``finetune``, or ``train`` where they are random ones.

    A new classifier alone makes nothing of random weights.
    """
    return "finetune" if any(step["step"] != "transfer" for step in steps_of(provenance)) else "train"


def is_untrained(provenance: Mapping[str, Any]) -> bool:
    """Return whether weights are random before training: all of them, or those of classes new to the classifier."""
    steps = steps_of(provenance)
    trained = [index for index, step in enumerate(steps) if step["step"] in ("train", "finetune")]
    since = steps[trained[-1] + 1 :] if trained else []
    has_new_classes = any(step["step"] == "transfer" and step.get("new") for step in since)
    return has_new_classes or training_step_of(provenance) == "train"


def since_pruning(steps: Sequence[Step]) -> list[Step]:
    """Return the steps after the last pruning, or, where there was none, those after the first step, training."""
    pruned = [index for index, step in enumerate(steps) if step["step"] == "prune"]
    return list(steps[(pruned[-1] if pruned else 0) + 1 :])


def recipe_problems(recipe: object) -> list[str]:
    """Return what is wrong with a recipe, each in one phrase that names the place; nothing where it is right."""
    if not isinstance(recipe, list):
        return [f"recipe must be a list of steps, is {str(recipe)[:60]!r}"]
    return [problem for number, step in enumerate(recipe, start=1) for problem in _step_problems(number, step)]


def _step_problems(number: int, step: object) -> list[str]:
    where = f"recipe, step {number}"
    if not isinstance(step, dict):
        return [f"{where}: must be a table, is {str(step)[:60]!r}"]
    name = step.get("step")
    if name not in STEPS:
        return [f"{where}: step={repr(name)[:60]}{did_you_mean(str(name), STEPS)}: must be one of {', '.join(STEPS)}"]
    keys = _KEYS[str(name)]
    problems = [f"{where} ({name}): missing key {key!r}" for key in keys if key not in step]
    known = {**keys, **_OPTIONAL.get(str(name), {})}
    problems += [
        f"{where} ({name}): {key} must be {_TYPES[kind]}, is {str(step[key])[:60]!r}"
        for key, kind in known.items()
        if key in step and type(step[key]) is not kind
    ]
    if isinstance(ratios := step.get("ratios"), dict):
        problems += [
            f"{where} ({name}): ratios[{layer!r}] must be a number in [0, 1], is {str(ratio)[:60]!r}"
            for layer, ratio in ratios.items()
            if type(ratio) not in (int, float) or not 0 <= ratio <= 1
        ]
    if keys:
        extra = [key for key in step if key not in ("step", *known)]
        return problems + [f"{where} ({name}): unknown key {key!r}{did_you_mean(key, known)}" for key in extra]
    training = step.get("training", {"iterations": 1, "seed": 0})
    if not isinstance(training, dict):
        return [f"{where} ({name}): training must be a table, is {str(training)[:60]!r}"]
    return [
        f"{where} ({name}): training.{key} must be a whole number, is {str(training.get(key))[:60]!r}"
        for key in ("iterations", "seed")
        if type(training.get(key)) is not int
    ]


def describe_step(step: Step) -> str:
    """Return a step in words, on one line."""
    if step["step"] == "prune":
        budget = f"{_budget(step['budget'])}, " if "budget" in step else ""
        return f"prune: {step['criterion']}, {budget}{_ratios(step['ratios'])}, seed {step['seed']}"
    if step["step"] == "recover":
        many = f"{step['best_step']:,} of {step['steps']:,} steps of " if step.keys() >= {"best_step", "steps"} else ""
        return f"recover: {many}{step['method']} on {step['clips']:,} clips"
    if step["step"] == "transfer":
        return f"transfer: to other classes; {len(step['kept']):,} keep their weights, {len(step['new']):,} are new"
    said = [f"{key.replace('_', ' ')} {_shown(value)}" for key, value in step.items() if _is_plain(key, value)]
    if isinstance(training := step.get("training"), Mapping):
        said = [f"{training['iterations']:,} iterations, seed {training['seed']}", *_taught(step, training), *said]
    return f"{step['step']}: {', '.join(said) or 'no settings recorded'}"


def _taught(step: Step, training: Mapping[str, Any]) -> list[str]:
    """Say which network taught, and how much the student listened to it."""
    if "teacher_sha256" not in step:
        return []
    weights = [f"{name.replace('_', ' ')} {training[name]}" for name in _TEACHING if name in training]
    return [f"taught by {str(step['teacher_sha256'])[:12]} ({', '.join(weights) or 'not listened to'})"]


def _is_plain(key: str, value: object) -> bool:
    return key not in ("step", "parent_sha256", "teacher_sha256") and isinstance(value, str | int | float)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _budget(budget: Mapping[str, Any]) -> str:
    """Return what was asked and reached; other versions may have other keys, so none is counted on."""
    asked, reached = (_amount(budget.get(key)) for key in ("asked", "reached"))
    return f"{budget.get('kind')} {reached} of at most {asked} ({budget.get('allocate')})"


def _amount(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) and value >= 1000 else _shown(value)


def _ratios(ratios: Mapping[str, float]) -> str:
    by_ratio: dict[float, list[str]] = {}
    for layer, ratio in ratios.items():
        by_ratio.setdefault(ratio, []).append(layer)
    if len(by_ratio) > _LISTED_LAYERS:
        return f"ratios {min(by_ratio):.3g} to {max(by_ratio):.3g} in {len(ratios)} layers"
    return ", ".join(
        f"ratio {ratio:.4g} in " + (", ".join(layers) if len(layers) <= _LISTED_LAYERS else f"{len(layers)} layers")
        for ratio, layers in by_ratio.items()
    )
