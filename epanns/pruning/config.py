"""Settings of a pruning: how much is removed, from which layers, and by which criterion.

Commands, experiments and Python calls all make one `PruningConfig`; `epanns.pruning.prune` reads no other settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from epanns import strict
from epanns.errors import PruningError, did_you_mean
from epanns.pruning.budgets.allocators import allocator_named
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.widths_for_budget import Allocator
from epanns.pruning.ranking.criteria import criterion_named
from epanns.pruning.rounding import refuse_ratio
from epanns.safe_text import printable
from epanns.text_files import read_json, read_toml

BUDGET_KINDS = ("params", "macs", "bytes", "latency")
# Kinds of budgets in experiments. A latency is measured, so the same trial would give another plan each time.
_EXPERIMENT_KINDS = ("params", "macs", "bytes")


def _is_budget(value: object) -> bool:
    try:
        return isinstance(value, str) and value.split(" ")[0] in _EXPERIMENT_KINDS and _budget_of(value).amount > 0
    except PruningError:
        return False


def _budget_of(text: str) -> Budget:
    kind, _, amount = text.partition(" ")
    return Budget.parse(kind, amount)


RATIOS = strict.Rule(
    "a table of numbers in [0, 1), at least one of them above 0",
    lambda value: isinstance(value, Mapping) and all(map(strict.RATIO.holds, value.values())) and any(value.values()),
)
BUDGET = strict.Rule(
    f"kind ({', '.join(_EXPERIMENT_KINDS)}) and amount, such as 'macs 0.25' or 'params 1M'", _is_budget
)


@dataclass(frozen=True)
class Amount:
    """How much of a network is removed; exactly one field is set.

    Attributes:
        ratio: Fraction of channels removed, in (0, 1): of each layer, or, with an allocator other than ``uniform``, of
            all layers together.
        ratios: Layer or block -> fraction of channels removed, in [0, 1), at least one above 0; other layers stay.
        budget: The most that the pruned network may cost.

    Raises:
        PruningError: If not exactly one field is set.
    """

    ratio: float | None = None
    ratios: Mapping[str, float] | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        _require_one({"ratio": self.ratio, "ratios": self.ratios, "budget": self.budget})


def _require_one(values: Mapping[str, object]) -> None:
    if sum(value is not None for value in values.values()) != 1:
        *names, last = values
        raise PruningError(f"give one of {', '.join(names)} and {last}")


class PruningKeywords(TypedDict, total=False):
    """The settings of `PruningConfig` as keywords of `epanns.prune`, with the fields of `Amount` beside them."""

    ratio: float | None
    ratios: Mapping[str, float] | None
    budget: Budget | None
    criterion: str
    layers: Sequence[str] | None
    allocate: str | Allocator
    round_to: int
    seed: int


@dataclass(frozen=True)
class PruningConfig:
    """Settings of a pruning.

    Attributes:
        amount: How much is removed.
        criterion: Name in `epanns.pruning.ranking.criteria.CRITERIA`.
        layers: With a ratio or a budget: names of layers or blocks; every convolution if None.
        allocate: How a ratio or a budget is distributed over the layers: ``uniform``, ``global``, ``distortion``,
            or an allocator of `epanns.pruning.budgets.allocators`.
        round_to: Multiple to which the widths of pruned layers are rounded.
        seed: Seed of criteria that draw random numbers.

    Raises:
        PruningError: If the criterion or the allocator is unknown, or settings contradict each other.
    """

    amount: Amount
    criterion: str = "l1"
    layers: Sequence[str] | None = None
    allocate: str | Allocator = "uniform"
    round_to: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        criterion_named(self.criterion)
        rule = self.allocate if isinstance(self.allocate, str) else self.allocate.name
        if self.amount.ratios is not None and rule != "uniform":
            raise PruningError(f"allocate={rule!r} goes with one ratio or a budget, not with ratios per layer")
        if self.amount.ratios is not None and self.layers is not None:
            raise PruningError("layers goes with one ratio; ratios per layer name their layers themselves")

    @classmethod
    def of(cls, **keywords: Unpack[PruningKeywords]) -> "PruningConfig":
        """Return the config of keywords: those of `Amount`, and the other fields of this class."""
        settings: dict[str, Any] = dict(keywords)
        amount = Amount(**{name: settings.pop(name, None) for name in ("ratio", "ratios", "budget")})
        return cls(amount, **settings)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, names: Callable[[str], str] = lambda key: key) -> "PruningConfig":
        """Read settings as the command line and experiments give them; None is a missing value.

        Args:
            table: One of ``ratio``, ``ratios`` (a table or a file), ``budget`` (such as ``macs 0.25``) and
                ``target_params``, ``target_macs``, ``target_bytes``, ``target_latency`` (such as ``5.02G``); further
                ``int8``, ``layers``, ``allocate``, ``minimum``, ``sensitivity`` (a file), ``round_to``, ``criterion``
                and ``seed``.
            names: Returns the name of a key in messages, such as the option of the command line.

        Raises:
            PruningError: With every unknown key and wrong value, or the first contradiction.
        """
        given = {key: value for key, value in table.items() if value is not None}
        if problems := strict.table_problems(given, _RULES):
            raise PruningError("; ".join(problems))
        ways = {key: given.get(key) for key in table if key in _WAYS} or dict.fromkeys(_WAYS)
        _require_one({names(key): value for key, value in ways.items()})
        targets = [kind for kind in BUDGET_KINDS if f"target_{kind}" in given]
        allocate = given.get("allocate", "uniform")
        minimum, sensitivity = given.get("minimum"), given.get("sensitivity")
        rules = {
            f"{names('int8')} goes with {names('target_bytes')}": not given.get("int8") or targets == ["bytes"],
            f"{names('allocate')} sensitivity and {names('sensitivity')} FILE.csv go together: give both or neither": (
                (allocate == "sensitivity") == (sensitivity is not None)
            ),
            f"{names('minimum')} goes with {names('allocate')} global, distortion or sensitivity": (
                minimum is None or allocate != "uniform"
            ),
        }
        for rule, holds in rules.items():
            if not holds:
                raise PruningError(rule)
        budget = _budget_of(given["budget"]) if "budget" in given else None
        for kind in targets:
            budget = Budget.parse(kind, given[f"target_{kind}"], int8=bool(given.get("int8")))
        ratios = given.get("ratios")
        amount = Amount(
            given.get("ratio"), read_ratios(Path(ratios)) if isinstance(ratios, str | Path) else ratios, budget
        )
        allocator = allocator_named(allocate, minimum=minimum, sensitivity=sensitivity)
        kept = {key: given[key] for key in ("criterion", "layers", "round_to", "seed") if key in given}
        return cls(amount, allocate=allocator, **kept)

    @property
    def allocator(self) -> Allocator:
        """The rule that distributes a ratio or a budget over the layers."""
        return allocator_named(self.allocate) if isinstance(self.allocate, str) else self.allocate

    @property
    def budget(self) -> Budget | None:
        """The budget; of channels, where one ratio is distributed over all layers together."""
        if self.amount.ratio is not None and self.allocator.name != "uniform":
            return Budget.left_by(self.amount.ratio)
        return self.amount.budget


_WAYS = ("ratio", "ratios", *(f"target_{kind}" for kind in BUDGET_KINDS), "budget")
_FILE_OR_RATIOS = strict.Rule(
    "a table or a file", lambda value: isinstance(value, Mapping | Path) or strict.PATH.holds(value)
)
_RULES: Mapping[str, strict.Rule] = {
    "ratio": strict.FINITE,
    "ratios": _FILE_OR_RATIOS,
    **{f"target_{kind}": strict.TEXT for kind in BUDGET_KINDS},
    "budget": BUDGET,
    "int8": strict.BOOLEAN,
    "layers": strict.or_none(strict.list_of(strict.TEXT, "layers or blocks")),
    "allocate": strict.one_of(("uniform", "global", "distortion", "sensitivity")),
    "minimum": strict.RATIO,
    "sensitivity": strict.Rule("a file", lambda value: isinstance(value, Path) or strict.PATH.holds(value)),
    "round_to": strict.integer(1),
    "criterion": strict.TEXT,
    "seed": strict.integer(0),
}


def select_layers(names: Sequence[str], *, prunable: Sequence[str], protected: Mapping[str, str]) -> tuple[str, ...]:
    """Return the layers named by layer or block, in forward order.

    Args:
        names: Layer names or block names: ``conv_block4`` is ``conv_block4.conv1`` and ``conv_block4.conv2``.
        prunable: The network's prunable layers, in forward order.
        protected: Name -> reason why it cannot be pruned.

    Raises:
        PruningError: If there is no name, one is given twice, is unknown (the nearest is offered) or protected.
    """
    if isinstance(names, str) or not names:
        raise PruningError(f"layers={names!r}: give a list of layer names, or leave it out to prune every convolution")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise PruningError(f"layers: {twice[0]} is given twice; name each layer or block once")
    chosen = {layer for name in names for layer in _layers_of(name, prunable, protected)}
    return tuple(layer for layer in prunable if layer in chosen)


def layers_within(name: str, prunable: Sequence[str]) -> list[str]:
    """Return the layers with this name or in the block of this name; none if it is neither."""
    return [layer for layer in prunable if layer == name or layer.startswith(f"{name}.")]


def _layers_of(name: str, prunable: Sequence[str], protected: Mapping[str, str]) -> list[str]:
    found = layers_within(name, prunable)
    if found:
        return found
    for layer, reason in protected.items():
        if layer == name or layer.startswith(f"{name}."):
            raise PruningError(f"{name} cannot be pruned: {reason}; leave it out of the layers")
    blocks = dict.fromkeys(layer.split(".")[0] for layer in prunable)
    raise PruningError(
        f"unknown layer {name!r}{did_you_mean(name, [*prunable, *blocks])}: "
        f"name a convolution or a block, among {', '.join(prunable)}"
    )


def ratio_per_layer(
    ratios: Mapping[str, float], *, prunable: Sequence[str], protected: Mapping[str, str]
) -> dict[str, float]:
    """Return layer -> ratio in forward order from names of layers and blocks; a layer's entry overrides its block's.

    Raises:
        PruningError: As `select_layers`, for any of the names; and where a ratio is not in [0, 1).
    """
    if not ratios:
        raise PruningError("ratios is empty: name at least one layer or block, such as conv_block4 = 0.5")
    by_block: dict[str, float] = {}
    by_layer: dict[str, float] = {}
    for name, ratio in ratios.items():
        layers = _layers_of(name, prunable, protected)
        refuse_ratio(ratio, name)
        (by_layer if name in prunable else by_block).update(dict.fromkeys(layers, float(ratio)))
    merged = by_block | by_layer
    return {layer: merged[layer] for layer in prunable if layer in merged}


def read_ratios(path: Path) -> dict[str, float]:
    """Read ``layer = ratio`` from a TOML file, or an object from a ``.json`` file.

    TOML's dotted keys are joined again, so ``conv_block4.conv1 = 0.5`` names a layer.

    Raises:
        PruningError: If the file cannot be read, is empty, or a value is no number; the file is named.
    """
    given = (read_json if path.suffix == ".json" else read_toml)(path, error=PruningError)
    if not isinstance(given, dict) or not given:
        raise PruningError(f"{path}: must hold lines such as conv_block4 = 0.5, one per layer or block")
    ratios: dict[str, float] = {}
    for layer, ratio in _flattened(given):
        if layer in ratios:
            raise PruningError(f"{path}: {printable(layer)} is given twice; name each layer or block once")
        if not strict.is_finite(ratio):
            raise PruningError(
                f"{path}: {printable(layer)} = {strict.shown(ratio)} must be a number in [0, 1), the fraction removed"
            )
        ratios[layer] = ratio
    return ratios


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
