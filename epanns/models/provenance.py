"""Where the weights of a network come from: source, parent, pruning plan, and the operations that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from epanns import strict
from epanns.errors import CheckpointError, PruningError
from epanns.models.pruning_plan import PruningPlan

_TRAINING: Mapping[str, strict.Rule] = {"iterations": strict.WHOLE, "seed": strict.WHOLE}
# Kind of operation -> its settings, required and optional ones; those of training may have others beside these.
_SETTINGS: Mapping[str, tuple[Mapping[str, strict.Rule], Mapping[str, strict.Rule]]] = {
    "train": ({}, {"training": strict.TABLE}),
    "prune": ({"criterion": strict.ANY_TEXT, "ratios": strict.TABLE, "seed": strict.WHOLE}, {"budget": strict.TABLE}),
    "recover": (
        {"method": strict.ANY_TEXT, "clips": strict.WHOLE},
        {"errors": strict.TABLE, "held_out": strict.TABLE, "fit_to": strict.ANY_TEXT, "ridge": strict.FINITE}
        | dict.fromkeys(("mixtures", "rectify", "steps", "best_step", "seed"), strict.WHOLE),
    ),
    "transfer": ({"kept": strict.TABLE, "new": strict.LIST}, {}),
    "finetune": ({}, {"training": strict.TABLE}),
}
_KIND = strict.one_of(tuple(_SETTINGS))
_TRAINS = ("train", "finetune")

_DISTILLATION_WEIGHTS = ("distil_weight", "feature_weight")
_LISTED_LAYERS = 4  # more are counted; the plan names them all


@dataclass(frozen=True)
class Operation:
    """One entry of a recipe: an operation that changed the weights of a network.

    Attributes:
        kind: ``train``, ``prune``, ``recover``, ``transfer`` (a new classifier) or ``finetune``.
        settings: Its settings and results as JSON values, in the order in which the file has them.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        """Whether the weights were trained on labels."""
        return self.kind in _TRAINS

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the recipe as JSON values."""
        return {"step": self.kind, **self.settings}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Operation":
        """Return the operation of an entry without problems, see `recipe_problems`."""
        return cls(values["step"], {key: value for key, value in values.items() if key != "step"})

    def describe(self) -> str:
        """Return the operation in words, on one line."""
        settings = self.settings
        if self.kind == "prune":
            return f"prune: {settings['criterion']}, {_amount_removed(settings)}, seed {settings['seed']}"
        if self.kind == "recover":
            has_steps = settings.keys() >= {"best_step", "steps"}
            steps = f"{settings['best_step']:,} of {settings['steps']:,} steps of " if has_steps else ""
            return f"recover: {steps}{settings['method']} on {settings['clips']:,} clips"
        if self.kind == "transfer":
            n_kept, n_new = len(settings["kept"]), len(settings["new"])
            return f"transfer: to other classes; {n_kept:,} keep their weights, {n_new:,} are new"
        parts = []
        training = settings.get("training")
        if training is not None:
            parts.append(f"{training['iterations']:,} iterations, seed {training['seed']}")
            if "teacher_sha256" in settings:
                weights = [
                    f"{key.replace('_', ' ')} {training[key]}" for key in _DISTILLATION_WEIGHTS if key in training
                ]
                teacher = str(settings["teacher_sha256"])[:12]
                parts.append(f"taught by {teacher} ({', '.join(weights) or 'without weight'})")
        parts += [
            f"{key.replace('_', ' ')} {_short(value)}"
            for key, value in settings.items()
            if key not in ("parent_sha256", "teacher_sha256") and isinstance(value, str | int | float)
        ]
        return f"{self.kind}: {', '.join(parts) or 'no settings recorded'}"


@dataclass(frozen=True)
class Provenance:
    """Where the weights of a network come from; checkpoints keep it in config.json.

    Attributes:
        source: Origin of the weights in words; None for a network that was built here.
        sha256: Of the file that the weights were read from, the parent of all networks made from them; None for a
            network that was built here.
        parent_sha256: Of the weights from which those in the file were made.
        plan: For a pruned network: the channels kept, numbered as in the unpruned network.
        recipe: The operations that made the weights, in order.
        assumed: Assumptions that were made when a released file was read, in words.
        width: Factor on the widths of the zoo's row; None if unknown.
        versions: Package -> version, at the time the file was written; None for networks not read from a checkpoint.
        n_read: Number of operations of `recipe` that were read with the weights; None for a network that was built
            here.
    """

    source: str | None = None
    sha256: str | None = None
    parent_sha256: str | None = None
    plan: PruningPlan | None = None
    recipe: tuple[Operation, ...] = ()
    assumed: tuple[str, ...] = ()
    width: float | None = None
    versions: Mapping[str, Any] | None = None
    n_read: int | None = None

    def with_operation(self, kind: str, /, **settings: Any) -> "Provenance":
        """Return this provenance with one operation more at the end of the recipe."""
        return replace(self, recipe=(*self.recipe, Operation(kind, settings)))

    def with_entry(self, entry: Mapping[str, Any]) -> "Provenance":
        """Return this provenance with one entry of config.json more at the end of the recipe; errors: `with_recipe`."""
        return replace(self, recipe=(*self.recipe, *self.with_recipe([entry]).recipe))

    def with_recipe(self, entries: Sequence[Mapping[str, Any]]) -> "Provenance":
        """Return this provenance with the entries of config.json as its recipe.

        Raises:
            CheckpointError: With the problems of the entries.
        """
        if problems := recipe_problems(entries):
            raise CheckpointError(f"{'; '.join(problems)}: give operations such as {{'step': 'recover', ...}}")
        return replace(self, recipe=tuple(map(Operation.from_dict, entries)))

    @property
    def is_as_read(self) -> bool:
        """Whether the weights are those of the file with `sha256`: no operation was done since they were read."""
        return self.sha256 is not None and len(self.recipe) == self.n_read

    @property
    def since_read(self) -> tuple[Operation, ...]:
        """The operations done since the weights were read."""
        return self.recipe[self.n_read or 0 :]

    @property
    def since_pruning(self) -> tuple[Operation, ...]:
        """The operations after the last pruning; without pruning, those after the first operation, training."""
        pruned = [index for index, operation in enumerate(self.recipe) if operation.kind == "prune"]
        return self.recipe[(pruned[-1] if pruned else 0) + 1 :]

    @property
    def last_training(self) -> Operation | None:
        """The last operation that trained the weights on labels."""
        return next((operation for operation in reversed(self.recipe) if operation.is_training), None)

    @property
    def training_kind(self) -> str:
        """The kind of operation that training is: ``train`` from random weights, else ``finetune``.

        Random weights with a new classifier are still random.
        """
        return "finetune" if any(operation.kind != "transfer" for operation in self.recipe) else "train"

    @property
    def is_untrained(self) -> bool:
        """Whether weights are random: all of them, or those of classes that are new since the last training."""
        trained = [index for index, operation in enumerate(self.recipe) if operation.is_training]
        since = self.recipe[trained[-1] + 1 :] if trained else ()
        has_new_classes = any(operation.kind == "transfer" and operation.settings.get("new") for operation in since)
        return has_new_classes or self.training_kind == "train"

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``provenance`` in config.json."""
        return {
            "source": self.source,
            "parent_sha256": self.parent_sha256,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "recipe": [operation.to_dict() for operation in self.recipe],
            "assumed": list(self.assumed),
            "width": self.width,
            "versions": self.versions,
        }

    def summary(self) -> dict[str, Any]:
        """Return the value of ``provenance`` in ``epanns info --json``."""
        values = self.to_dict() | {"sha256": self.sha256}
        if self.versions is None:  # released files have none of the others
            return {key: values[key] for key in ("source", "sha256", "recipe", "assumed")}
        return values

    @classmethod
    def from_dict(cls, values: object, *, sha256: str | None = None) -> "Provenance":
        """Read the value of ``provenance`` in config.json; `sha256` is that of the weights beside it.

        Raises:
            CheckpointError: With every problem.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"provenance={strict.shown(values)}: must be a table")
        problems = strict.table_problems(values, _RULES, required=_RULES, prefix="provenance.")
        if isinstance(values.get("recipe"), list):
            problems += [f"provenance.{problem}" for problem in recipe_problems(values["recipe"])]
        plan = values.get("plan")
        if isinstance(plan, Mapping):
            try:
                plan = PruningPlan.from_dict(plan)
            except PruningError as error:
                problems.append(f"provenance.plan: {error}")
        if problems:
            raise CheckpointError("; ".join(problems))
        recipe = tuple(map(Operation.from_dict, values["recipe"]))
        lists = {"recipe": recipe, "assumed": tuple(values["assumed"])}
        return cls(**{**values, **lists, "plan": plan, "sha256": sha256, "n_read": len(recipe)})


_RULES: Mapping[str, strict.Rule] = {
    "source": strict.ANY_TEXT,
    "parent_sha256": strict.or_none(replace(strict.SHA256, text=f"null or {strict.SHA256.text}")),
    "plan": strict.or_none(replace(strict.TABLE, text="null or a table")),
    "recipe": replace(strict.LIST, text="a list of operations"),
    "assumed": strict.Rule(
        "a list of text", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value)
    ),
    "width": strict.or_none(strict.number("null or a number in (0, 8]", lambda value: 0 < value <= 8)),
    "versions": strict.TABLE,
}


def recipe_problems(recipe: Sequence[object]) -> list[str]:
    """Return one line for each problem of the entries of a recipe, as they are in config.json."""
    found: list[str] = []
    for place, entry in enumerate(recipe, start=1):
        where = f"recipe, operation {place}"
        if not isinstance(entry, Mapping):
            found.append(f"{where}={strict.shown(entry)}: must be a table")
            continue
        kind = entry.get("step")
        if not isinstance(kind, str) or kind not in _SETTINGS:
            found.append(f"{where}: {_KIND.problem('step', kind)}")
            continue
        required, optional = _SETTINGS[kind]
        rules = {**required, **optional}
        settings = {key: value for key, value in entry.items() if key != "step"}
        known = {key: value for key, value in settings.items() if key in rules} if kind in _TRAINS else settings
        problems = strict.table_problems(known, rules, required=required)
        if isinstance(training := known.get("training"), Mapping):
            read = {key: value for key, value in training.items() if key in _TRAINING}
            problems += strict.table_problems(read, _TRAINING, required=_TRAINING, prefix="training.")
        if kind == "prune" and isinstance(ratios := settings.get("ratios"), Mapping):
            of_ratios = (strict.FRACTION.problem(f"ratios[{layer!r}]", ratio) for layer, ratio in ratios.items())
            problems += [problem for problem in of_ratios if problem is not None]
        found += [f"{where} ({kind}): {problem}" for problem in problems]
    return found


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _amount_removed(settings: Mapping[str, Any]) -> str:
    """Return the ratios of a pruning, after the limit and the cost reached if it had a budget."""
    start = ""
    if "budget" in settings:
        budget = settings["budget"]  # none of its keys is required
        asked, reached = (
            f"{value:,.0f}" if isinstance(value, int | float) and value >= 1000 else _short(value)
            for value in (budget.get("asked"), budget.get("reached"))
        )
        start = f"{budget.get('kind')} {reached} of at most {asked} ({budget.get('allocate')}), "
    by_ratio: dict[float, list[str]] = {}
    for layer, ratio in settings["ratios"].items():
        by_ratio.setdefault(ratio, []).append(layer)
    if len(by_ratio) > _LISTED_LAYERS:
        return start + f"ratios {min(by_ratio):.3g} to {max(by_ratio):.3g} in {len(settings['ratios'])} layers"
    return start + ", ".join(
        f"ratio {ratio:.4g} in " + (", ".join(layers) if len(layers) <= _LISTED_LAYERS else f"{len(layers)} layers")
        for ratio, layers in by_ratio.items()
    )
