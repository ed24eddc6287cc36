"""A budget, the largest cost of a pruned network, and its text form such as 5.02G."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Real

from epanns.errors import PruningError

# Kind -> suffix -> factor, in the kind's own unit.
_COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
UNITS: Mapping[str, Mapping[str, int]] = {
    "params": _COUNTS,
    "macs": _COUNTS,
    "bytes": _BYTES,
    "latency": {"": 1, "ms": 1, "s": 1000},
    "channels": {"": 1},
}
_EXAMPLES = {
    "params": "0.25 or 22M",
    "macs": "0.25 or 5.02G",
    "bytes": "0.25 or 4.5MB",
    "latency": "0.5 or 20ms",
    "channels": "0.5",
}
_DECIMALS = 4  # of a cost that is shown
_PREFIXES = ("", "k", "M", "G", "T")
_SHOWN = {"params": " parameters", "macs": " MACs", "bytes": "B in float32", "int8_bytes": "B in int8"}
_MOST_DIGITS = 18  # before the point or behind it; no network costs more, and 1e999999999 would take all memory
_NUMBER = re.compile(r"\s*(?P<number>\d+\.?\d*|\.\d+)(?P<power>[eE][+-]?\d{1,4})?\s*(?P<unit>[A-Za-z%]*)\s*")


@dataclass(frozen=True)
class Budget:
    """The most that a pruned network may cost.

    Attributes:
        kind: ``params`` (trainable parameters), ``macs`` (convolutions and linear layers, for 10 s of sound), ``bytes``
            (of the parameters), ``latency`` (one clip of 10 s on this machine, in milliseconds) or ``channels`` (of all
            layers that may lose channels).
        amount: In (0, 1) a fraction of the unpruned network's cost, unless `absolute`; from 1 on the cost itself.
        int8: With ``bytes``: of weights in int8 (`complexity.width_cost.WidthCost`) instead of float32.
        absolute: With ``latency``: an amount below 1 is milliseconds and no fraction.

    Raises:
        PruningError: If the kind is unknown, the amount no number above 0, or `int8` or `absolute` goes with another
            kind.
    """

    kind: str
    amount: float
    int8: bool = False
    absolute: bool = False

    def __post_init__(self) -> None:
        if self.kind not in UNITS:
            raise PruningError(f"budget of kind {self.kind!r}: must be one of {', '.join(UNITS)}")
        if isinstance(self.amount, bool) or not isinstance(self.amount, Real) or not 0 < self.amount < math.inf:
            raise PruningError(f"budget of {self.amount!r} {self.kind}: must be a number above 0")
        if self.int8 and self.kind != "bytes":
            raise PruningError(f"int8 goes with a budget of bytes, not of {self.kind}")
        if self.absolute and self.kind != "latency":
            raise PruningError(f"absolute goes with a budget of latency, not of {self.kind}: give 1 or more for a cost")

    @classmethod
    def parse(cls, kind: str, text: str, *, int8: bool = False) -> "Budget":
        """Read a budget: ``0.25``, ``5.02G``, ``22M``, ``4.5MB``, ``4.5MiB``, ``20ms``, ``0.5ms``.

        Raises:
            PruningError: If the text is no number above 0 with one of the kind's units, or a count below 1 with a unit.
        """
        units = UNITS[kind]
        found = _NUMBER.fullmatch(text)
        rule = f"give a number above 0 such as {_EXAMPLES[kind]}"
        if found is None or found["unit"] not in units:
            if found is not None and found["unit"] == "%":
                rule = f"for {found['number']} % give {Decimal(found['number']) / 100:f}"
            known = ", ".join(unit for unit in units if unit)
            raise PruningError(f"{text!r} is no budget of {kind}: {rule} (units: {known})")
        number = Decimal(found["number"] + (found["power"] or ""))
        if number == 0 or abs(number.adjusted()) > _MOST_DIGITS:
            raise PruningError(f"{text!r} is no budget of {kind}: {rule}")
        amount = number * units[found["unit"]]
        absolute = amount < 1 and found["unit"] != ""
        if absolute and kind != "latency":
            raise PruningError(
                f"{text!r} is no budget of {kind}: it is {amount.normalize():f} {kind}; must be at least 1; a fraction "
                f"of what the network costs has no unit, as in {_EXAMPLES[kind].partition(' ')[0]}"
            )
        value = int(amount) if amount == amount.to_integral_value() else float(amount)
        return cls(kind, value, int8, absolute)

    @classmethod
    def left_by(cls, ratio: float) -> "Budget":
        """Return the budget of channels for a ratio of all channels removed.

        Raises:
            PruningError: If the ratio is not in (0, 1).
        """
        if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 < ratio < 1:
            raise PruningError(f"ratio {ratio!r}: must be in (0, 1), the fraction of all channels removed")
        return cls("channels", float(1 - Decimal(repr(float(ratio)))))

    @property
    def is_fraction(self) -> bool:
        """Whether `amount` is a fraction of the unpruned network's cost."""
        return self.amount < 1 and not self.absolute

    @property
    def cost(self) -> str:
        """The name of the cost in `WidthCost`, if it is one."""
        return "int8_bytes" if self.int8 else self.kind

    def limit(self, unpruned: float) -> Fraction:
        """Return the largest cost allowed, exactly, given the cost of the unpruned network."""
        amount = Fraction(repr(float(self.amount))) if isinstance(self.amount, float) else Fraction(self.amount)
        return amount * Fraction(unpruned) if self.is_fraction else amount

    def show(self, cost: float) -> str:
        """Return a cost of this kind with its unit."""
        if self.kind == "latency":
            return f"{cost:.4g} ms" if cost < 10_000 else f"{cost:,.0f} ms"
        if self.kind == "channels":
            return f"{cost:,.0f} channels"
        exponent = max(index for index in range(len(_PREFIXES)) if index == 0 or cost >= 1000**index)
        unit = f"{_PREFIXES[exponent]}{_SHOWN[self.cost]}".lstrip()
        return f"{cost / 1000**exponent:.{_DECIMALS}f} {unit}" if exponent else f"{cost:.0f} {unit}"

    def offer(self, cost: float) -> str:
        """Return a cost rounded up, with its unit: a budget of this text allows the cost itself."""
        if self.kind in ("latency", "channels"):
            return self.show(cost)
        whole = math.ceil(cost)
        exponent = max(index for index in range(len(_PREFIXES)) if index == 0 or whole >= 1000**index)
        shown = 1000**exponent // 10**_DECIMALS if exponent > 1 else 1
        return self.show(-(-whole // shown) * shown)
