"""A pruned network as data: the kept channels of each layer."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from epanns.atomic import sha256_of_json
from epanns.errors import ConfigError, PruningError, did_you_mean
from epanns.models.spec import ModelSpec
from epanns.strict import ANY_TEXT, LIST, RATIO, TABLE, WHOLE, Rule, shown, table_problems, value_problems

_FORMAT = "epanns-plan/1"
_SHOWN = 12  # changed layers that a summary lists
_THEN = ", then "  # joins the criteria of composed plans


@dataclass(frozen=True)
class PruningPlan:
    """The channels that are kept; with the weights of the base, it determines the pruned network.

    Channels are numbered as in `base`. `compose` joins the plans of a network that is pruned in rounds, so that the
    plan in its provenance always starts from the unpruned network.

    Attributes:
        base: The network before pruning.
        kept_channels: Layer -> ascending channel indices in the base; other layers keep all channels.
        criterion: Name in `pruning.ranking.criteria.CRITERIA`, or several joined by ``, then``.
        ratios: Layer -> pruning ratio that gives its width, for the same layers: the requested one, or, for a budget
            or several rounds, the fraction removed.
        seed: Seed of the criterion, if it uses random numbers.
    """

    base: ModelSpec
    kept_channels: Mapping[str, tuple[int, ...]]
    criterion: str
    ratios: Mapping[str, float]
    seed: int

    def __post_init__(self) -> None:
        kept = {layer: tuple(channels) for layer, channels in self.kept_channels.items()}
        object.__setattr__(self, "kept_channels", MappingProxyType(kept))
        object.__setattr__(self, "ratios", MappingProxyType(dict(self.ratios)))
        problems = []
        for layer, channels in kept.items():
            width = self.base.widths.get(layer)
            if width is None:
                problems.append(f"unknown layer {layer!r}{did_you_mean(layer, self.base.widths)}")
            elif not channels:
                problems.append(f"{layer} would keep no channel: keep at least one")
            elif any(type(channel) is not int for channel in channels):
                problems.append(f"channels of {layer} must be whole numbers")
            elif list(channels) != sorted(set(channels)) or channels[0] < 0 or channels[-1] >= width:
                problems.append(f"channels of {layer} must ascend within [0, {width})")
        if set(self.ratios) != set(kept):
            problems.append(f"ratios name {sorted(self.ratios)}, kept_channels {sorted(kept)}: they must be the same")
        if problems:
            raise PruningError(f"pruning plan for {self.base.name}: " + "; ".join(problems))

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the plan as a dictionary: read-only views of dictionaries cannot be pickled."""
        return PruningPlan.from_dict, (self.to_dict(),)

    @property
    def widths(self) -> dict[str, int]:
        """Layer -> channels after pruning, for every layer of the network."""
        return {
            layer: len(self.kept_channels[layer]) if layer in self.kept_channels else width
            for layer, width in self.base.widths.items()
        }

    @property
    def pruned_layers(self) -> tuple[str, ...]:
        """Layers that lose at least one channel, in forward order."""
        return tuple(layer for layer, width in self.widths.items() if width < self.base.widths[layer])

    @property
    def pruned_spec(self) -> ModelSpec:
        """The network after pruning."""
        return self.base.with_widths(self.widths)

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 of the plan's canonical JSON."""
        return sha256_of_json(self.to_dict())

    def summary(self) -> str:
        """Return one line; of more than twelve changed layers only the first and the last are listed."""
        changes = [f"{layer} {self.base.widths[layer]} -> {self.widths[layer]}" for layer in self.pruned_layers]
        shown = changes if len(changes) <= _SHOWN else [changes[0], f"{len(changes) - 2} more", changes[-1]]
        whole = [layer for layer, ratio in self.ratios.items() if ratio > 0 and layer not in self.pruned_layers]
        narrow = f"; too narrow to lose any: {', '.join(whole)}" if whole else ""
        total = len(self.base.widths)
        start = f"{len(changes)} of {total} layers pruned by {self.criterion}: "
        return start + (", ".join(shown) or "nothing removed") + narrow

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "format": _FORMAT,
            "base": self.base.to_dict(),
            "criterion": self.criterion,
            "ratios": dict(self.ratios),
            "seed": self.seed,
            "kept_channels": {layer: list(kept) for layer, kept in self.kept_channels.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PruningPlan":
        """Read the form of `to_dict`.

        Raises:
            PruningError: With every problem.
        """
        given = dict(values)
        if (found := given.pop("format", None)) != _FORMAT:
            raise PruningError(f"pruning plan of format {shown(found)}: this version reads {_FORMAT!r}")
        problems = table_problems(given, _RULES, required=_RULES)
        if not problems:
            problems = value_problems(
                given["kept_channels"], dict.fromkeys(given["kept_channels"], LIST), prefix="kept_channels of "
            )
            problems += value_problems(given["ratios"], dict.fromkeys(given["ratios"], RATIO), prefix="ratio of ")
        if problems:
            raise PruningError("pruning plan: " + "; ".join(problems))
        try:
            base = ModelSpec.from_dict(given["base"])
        except ConfigError as error:
            raise PruningError(f"pruning plan: base: {str(error)[:400]}") from error
        return cls(**{**given, "base": base})


_RULES: Mapping[str, Rule] = {
    "base": TABLE,
    "kept_channels": TABLE,
    "criterion": ANY_TEXT,
    "ratios": TABLE,
    "seed": WHOLE,
}


def compose(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """Return the plan that applies `first` and then `second`.

    Channels are numbered as in the base of `first`; ratios are fractions of its channels; the seed is that of `second`.

    Raises:
        PruningError: If `second` does not start from the widths that `first` leaves.
    """
    if first.widths != dict(second.base.widths):
        raise PruningError("two pruning plans do not follow each other: the second must start where the first ends")
    kept: dict[str, tuple[int, ...]] = {}
    for layer, width in first.base.widths.items():
        if layer in first.kept_channels or layer in second.kept_channels:
            left = first.kept_channels.get(layer, tuple(range(width)))
            kept[layer] = tuple(left[channel] for channel in second.kept_channels.get(layer, range(len(left))))
    steps = first.criterion.split(_THEN)
    return PruningPlan(
        base=first.base,
        kept_channels=kept,
        criterion=first.criterion if steps[-1] == second.criterion else _THEN.join([*steps, second.criterion]),
        ratios={layer: 1 - len(channels) / first.base.widths[layer] for layer, channels in kept.items()},
        seed=second.seed,
    )


def remainder(first: PruningPlan, whole: PruningPlan) -> PruningPlan:
    """Return the plan that leads from the result of `first` to that of `whole`, the inverse of `compose`.

    Channels are numbered as in the result of `first`; criterion and seed are those of `whole`.

    Raises:
        PruningError: If the two do not start from the same widths, or `first` removes what `whole` keeps.
    """
    if dict(first.base.widths) != dict(whole.base.widths):
        raise PruningError(
            f"the plans of the two networks start from different {first.base.name}s: give two that were cut from one"
        )
    kept: dict[str, tuple[int, ...]] = {}
    for layer, width in first.base.widths.items():
        left, channels = (plan.kept_channels.get(layer, range(width)) for plan in (first, whole))
        place = {channel: index for index, channel in enumerate(left)}
        if gone := [channel for channel in channels if channel not in place]:
            raise PruningError(
                f"{layer}: the pruned network keeps channel {gone[0]}, which the one it should be cut from has lost: "
                "give the network that it was cut from"
            )
        if len(channels) < len(left):
            kept[layer] = tuple(place[channel] for channel in channels)
    base = first.pruned_spec
    ratios = {layer: 1 - len(channels) / base.widths[layer] for layer, channels in kept.items()}
    return PruningPlan(base, kept, whole.criterion, ratios, whole.seed)
