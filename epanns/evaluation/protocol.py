"""How a clip becomes one score per class: heard integer, or in windows whose scores are put together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from epanns.errors import ConfigError
from epanns.models.pooling import probabilities_of
from epanns.strict import BOOLEAN, Rule, check_fields, number, one_of, or_none

# name -> (logits, probabilities), each (windows, classes) of one clip, and the network's activation -> (classes,) in
# [0, 1]. Of a softmax, `mean_prob` and `mean_logit` sum to 1 again; `max_prob` does not.
AGGREGATES: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "mean_prob": lambda logits, probabilities, activation: probabilities.mean(dim=0),
    "mean_logit": lambda logits, probabilities, activation: probabilities_of(logits.mean(dim=0), activation),
    "max_prob": lambda logits, probabilities, activation: probabilities.amax(dim=0),
}

_SHORTEST, _LONGEST = 0.01, 3600  # seconds; beyond, windows are a slip of units and memory or time run out

_SECONDS = or_none(number("a number of seconds", lambda value: True))
PROTOCOL_RULES: Mapping[str, Rule] = {
    "window": _SECONDS,
    "hop": _SECONDS,
    "aggregate": one_of(AGGREGATES),
    "own_length": BOOLEAN,
}


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a clip becomes one score per class.

    Without a window the network hears the clip as it is packed, padding included, as PANNs were evaluated. With one
    it hears windows over the clip's real samples::

        clip    |-----------------------|          n_samples
        windows |---------|
                     |---------|                   every hop
                          |---------|
                              |---------|          the tail: one more window, shifted back to end with the clip

    A clip shorter than the window is repeated up to it. At its own length the network hears the clip's real samples as
    they are, however many (PaSST's and EfficientAT's ``variable_eval``); it repeats what is too short for it.

    Attributes:
        window: Length in seconds, > 0; None for the whole clip.
        hop: Seconds between window starts, in (0, window]; None for windows side by side.
        aggregate: Name in `AGGREGATES`: how the scores of a clip's windows become the clip's.
        own_length: Without a window: leave out the padding of each clip.

    Raises:
        ConfigError: If a value is out of range, or has no meaning with or without a window.
    """

    window: float | None = None
    hop: float | None = None
    aggregate: str = "mean_prob"
    own_length: bool = False

    def __post_init__(self) -> None:
        check_fields(self, PROTOCOL_RULES)
        if self.window is None:
            given = [f"hop={self.hop}"] if self.hop is not None else []
            given += [f"aggregate={self.aggregate!r}"] if self.aggregate != "mean_prob" else []
            if given:
                raise ConfigError(f"{', '.join(given)} without a window: applies to windows alone; give window too")
            return
        if self.own_length:
            raise ConfigError(f"own_length: windows of {self.window} s hear no padding anyway: give one of the two")
        if not _SHORTEST <= self.window <= _LONGEST:
            raise ConfigError(f"window={self.window}: must be a length in seconds, {_SHORTEST} to {_LONGEST}")
        if self.hop is not None and not 0 < self.hop <= self.window:
            raise ConfigError(f"hop={self.hop}: must be in (0, window={self.window}], or samples would be skipped")
        if self.hop is not None and self.hop < _SHORTEST:
            raise ConfigError(f"hop={self.hop}: must be at least {_SHORTEST} s")

    def settings(self) -> dict[str, float | str | bool]:
        """Return what differs from the whole clip, as JSON values: equal protocols, equal settings."""
        found: dict[str, float | str | bool] = {}
        if self.window is not None:
            hop = self.window if self.hop is None else self.hop
            found |= {"window": float(self.window), "hop": float(hop), "aggregate": self.aggregate}
        return found | ({"own_length": True} if self.own_length else {})

    def describe(self) -> str:
        """Return the protocol in words, the same for equal protocols."""
        if self.window is None:
            return "whole clip at its own length, without padding" if self.own_length else "whole clip"
        hop = self.window if self.hop is None else self.hop
        edges = "last window shifted back, short clips repeated"
        return f"{self.window:g} s windows, {hop:g} s hop, {self.aggregate} ({edges})"
