"""The settings of runs: which of them tell runs apart, and how people read them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from epanns.records import RunRecord
from epanns.reporting.layer_names import short_layers
from epanns.reporting.units import si

# Records that differ in their seed only, and the settings (``name=value``) in which they differ from similar records.
SettledGroup = tuple[list[RunRecord], tuple[str, ...]]

_RATIOS = "ratios."
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # a sha256: its first digits are enough
_NAMES = frozenset({"name", "base.name"})  # a row shows them by themselves
_STEP = re.compile(r"(\d+)_(\w+)")  # of a recipe, such as 1_train
_WORDS = {"finetune": "fine-tuning", "True": "yes", "False": "no", "None": "none"}


def told_apart(records: Sequence[RunRecord], settings_of: Callable[[RunRecord], dict[str, str]]) -> list[SettledGroup]:
    """Split records by every setting in which they differ; one group without settings where they agree.

    A setting that a record does not have is not told of it.
    """
    settings = {record.trial_id: settings_of(record) for record in records}
    names = sorted(set().union(*settings.values()) - _NAMES)
    differing = [name for name in names if len({given.get(name) for given in settings.values()}) > 1]

    def differences(record: RunRecord) -> tuple[str, ...]:
        given = settings[record.trial_id]
        return tuple(f"{name}={given[name]}" for name in differing if name in given)

    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        groups.setdefault(differences(record), []).append(record)
    return [
        (members, _ratios_joined(_DIGEST.sub(r"\1", value) for value in found)) for found, members in groups.items()
    ]


def settings_of(record: RunRecord) -> dict[str, str]:
    """Return a run's configuration by dotted name, without seeds and the checkpoint that a seed made."""
    flat = _flat(record.config)
    return {name: flat[name] for name in flat if name.split(".")[-1] != "seed" and name != "checkpoint"}


def checkpoint_of(record: RunRecord) -> dict[str, str]:
    """Return which checkpoint was scored, in records of `epanns evaluate`."""
    return {name: value for name, value in _flat(record.config).items() if name == "checkpoint"}


def base_settings(record: RunRecord) -> dict[str, str]:
    """Return how the unpruned network came about, named alike in its own record and in those of its offspring."""
    settings = settings_of(record)
    if record.config.get("kind") == "base":
        settings = {f"base.{name}": value for name, value in settings.items() if not name.startswith("packs.")}
    return {name: value for name, value in settings.items() if name.startswith("base.")}


def label_of(record: RunRecord) -> str:
    """Return the name that a person gave the network, of the sweep's base or of the evaluation; empty where none is."""
    given = record.config.get("name")
    return record.name or (given if isinstance(given, str) else "")


def budget_of(record: RunRecord) -> str | None:
    """Return the budget a network was cut to, such as ``macs 0.25``, or None where it was cut otherwise."""
    asked = record.config.get("budget")
    if isinstance(asked, str):
        return asked
    recipe = record.config.get("recipe")
    steps = recipe.values() if isinstance(recipe, Mapping) else ()
    budgets = [step["budget"] for step in steps if isinstance(step, Mapping) and "budget" in step]
    if not budgets or not isinstance(budgets[-1], Mapping):
        return None
    kind, most = budgets[-1].get("kind"), budgets[-1].get("asked")
    return f"{kind} {si(most)}" if isinstance(most, int | float) else str(kind)


def in_words(setting: str) -> str:
    """Return a setting as people read it: ``finetune.batch_size=32`` is ``fine-tuning batch size 32``."""
    name, _, value = setting.partition("=")
    parts = [f"step {step[1]} ({step[2]})" if (step := _STEP.fullmatch(part)) else part for part in name.split(".")]
    words = [_WORDS.get(part, part.replace("_", " ")) for part in parts]
    if name == "budget":
        words.append("of")
    return " ".join([*words, _WORDS.get(value, value)])


def _ratios_joined(settings: Iterable[str]) -> tuple[str, ...]:
    """Tell ratios by layer as one setting, ``ratios=0.35 of blocks 1–3, 0.75 of blocks 4–6``."""
    layers: dict[str, list[str]] = {}
    others = []
    for setting in settings:
        name, _, value = setting.partition("=")
        if name.startswith(_RATIOS):
            layers.setdefault(value, []).append(name.removeprefix(_RATIOS))
        else:
            others.append(setting)
    told = ", ".join(f"{value} of {short_layers(names)}" for value, names in layers.items())
    return (*others, *([f"ratios={told}"] if told else []))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat
