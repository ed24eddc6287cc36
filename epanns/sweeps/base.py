"""The networks an experiment begins with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from epanns.errors import ConfigError
from epanns.models.spec import LEAN_FAMILIES
from epanns.models.zoo import spec_of
from epanns.safe_text import is_printable
from epanns.strict import ANY_TEXT, BOOLEAN, PATH, TABLE, Rule, check_fields, error_messages, number
from epanns.sweeps.training_tables import base_training

_LONGEST_NAME = 80
_NO_PATH_OR = Rule(PATH.text, lambda value: value == "" or PATH.holds(value))
_NAME = Rule(
    f"text of at most {_LONGEST_NAME} printable characters",
    lambda value: isinstance(value, str) and len(value) <= _LONGEST_NAME and is_printable(value),
)
BASE_RULES: Mapping[str, Rule] = {
    "name": _NAME,
    "model": ANY_TEXT,
    "width": number("a number > 0", lambda value: value > 0),
    "yamnet": _NO_PATH_OR,
    "training": TABLE,
    "checkpoint": _NO_PATH_OR,
    "prune": BOOLEAN,
}


@dataclass(frozen=True)
class BaseConfig:
    """An unpruned network: trained here, or a checkpoint.

    Attributes:
        model: A name of the zoo.
        width: Factor on its widths.
        yamnet: For LEAN's networks, the YAMNet whose body to build on: a checkpoint folder, ``yamnet.h5`` or ``.npz``,
            relative to the current folder; known by its weights. The body stays frozen unless ``training`` says
            ``freeze_yamnet = false``.
        training: How it is trained; keys of `TrainingConfig` and ``preset``; no seed.
        checkpoint: Instead of all that, a checkpoint folder or released file with the data's labels.
        prune: Whether the grids prune it; without, it is trained and scored to be compared with.
        name: Label in reports; no part of a trial's identity.
    """

    model: str = ""
    width: float = 1.0
    yamnet: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ""
    prune: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        check_fields(self, BASE_RULES)
        if bool(self.model) == bool(self.checkpoint):
            raise ConfigError("give either model (and training) or checkpoint")
        if self.checkpoint and (self.training or self.width != 1.0 or self.yamnet):
            raise ConfigError("training, width and yamnet do not go with checkpoint")
        if self.yamnet and self.width != 1.0:
            raise ConfigError(f"width={self.width:g} with yamnet: the body has its own widths, leave width out")
        if self.model and not self.may_be_frozen and self.yamnet:
            raise ConfigError(f"yamnet={self.yamnet!r}: {self.model} is not built on YAMNet's body")
        if self.model and (
            problems := error_messages(self.training_with, lambda: spec_of(self.model, width=self.width))
        ):
            raise ConfigError("; ".join(problems))

    @property
    def may_be_frozen(self) -> bool:
        """Whether it can have the body of a YAMNet, to be left as it is; of a checkpoint nothing is known yet."""
        return not self.model or spec_of(self.model).family in LEAN_FAMILIES

    def training_with(self, seed: int | None = None) -> dict[str, Any]:
        """Return how it is trained, as JSON values; without a seed the table is only checked."""
        return base_training(self.training, seed=seed, on_yamnet=bool(self.yamnet))
