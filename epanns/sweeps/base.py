"""The networks an experiment begins with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from epanns.errors import ConfigError
from epanns.models.layouts import LEAN_FAMILIES
from epanns.models.zoo import spec_of
from epanns.sweeps.strict_toml import is_number
from epanns.sweeps.training_tables import base_training


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
    """

    model: str = ""
    width: float = 1.0
    yamnet: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ""
    prune: bool = True

    def __post_init__(self) -> None:
        self._require_kinds()
        if bool(self.model) == bool(self.checkpoint):
            raise ConfigError("give either model (and training) or checkpoint")
        if self.checkpoint and (self.training or self.width != 1.0 or self.yamnet):
            raise ConfigError("training, width and yamnet do not go with checkpoint")
        if self.yamnet and self.width != 1.0:
            raise ConfigError(f"width={self.width:g} with yamnet: the body has its own widths, leave width out")
        if self.model and not self.may_be_frozen and self.yamnet:
            raise ConfigError(f"yamnet={self.yamnet!r}: {self.model} is not built on YAMNet's body")
        self.training_with()

    def _require_kinds(self) -> None:
        """Refuse values of another kind."""
        texts = {"model": self.model, "yamnet": self.yamnet, "checkpoint": self.checkpoint}
        rules = {
            **{f"{name}={value!r}: must be text": isinstance(value, str) for name, value in texts.items()},
            f"width={self.width!r}: must be a number > 0": is_number(self.width) and self.width > 0,
            f"training={self.training!r}: must be a table": isinstance(self.training, Mapping),
            f"prune={self.prune!r}: must be true or false": isinstance(self.prune, bool),
        }
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError("; ".join(problems))

    @property
    def may_be_frozen(self) -> bool:
        """Whether it can have the body of a YAMNet, to be left as it is; of a checkpoint nothing is known yet."""
        return not self.model or spec_of(self.model).family in LEAN_FAMILIES

    def training_with(self, seed: int | None = None) -> dict[str, Any]:
        """Return how it is trained, as JSON values; without a seed the table is only checked."""
        return base_training(self.training, seed=seed, on_yamnet=bool(self.yamnet))
