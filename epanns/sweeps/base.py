"""The ``[[base]]`` tables of an experiment: unpruned networks, trained in the sweep or given as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from epanns.errors import ConfigError, EpannsError
from epanns.labels import LabelSet
from epanns.models.files.load import load
from epanns.models.provenance import Provenance
from epanns.models.spec import LEAN_FAMILIES, ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.zoo import ZOO, build_model, spec_of
from epanns.pruning.recovery.batch_norm_reestimation import refuse_folded
from epanns.safe_text import is_printable
from epanns.strict import ANY_TEXT, BOOLEAN, PATH, TABLE, Rule, check_fields, error_messages, number
from epanns.sweeps.journal import base_in_words
from epanns.training.config import TrainingConfig, frozen_in, read_training

_LONGEST_NAME = 80
_NO_PATH_OR = Rule(PATH.text, lambda value: value == "" or PATH.holds(value))
BASE_RULES: Mapping[str, Rule] = {
    "name": Rule(
        f"text of at most {_LONGEST_NAME} printable characters",
        lambda value: isinstance(value, str) and len(value) <= _LONGEST_NAME and is_printable(value),
    ),
    "model": ANY_TEXT,
    "width": number("a number > 0", lambda value: value > 0),
    "yamnet": _NO_PATH_OR,
    "training": TABLE,
    "checkpoint": _NO_PATH_OR,
    "prune": BOOLEAN,
}


@dataclass(frozen=True)
class BaseConfig:
    """An unpruned network: trained in the sweep, or read from a checkpoint.

    Attributes:
        model: A name of the zoo.
        width: Factor on the widths of the zoo's row.
        yamnet: For LEAN's networks, the YAMNet whose body to build on: a checkpoint folder, ``yamnet.h5`` or ``.npz``,
            relative to the current folder; identified by its weights. The body is frozen unless ``training`` has
            ``freeze_yamnet = false``.
        training: Keys of `TrainingConfig` and ``preset``, without a seed.
        checkpoint: Instead of the keys above, a checkpoint folder or released file with the labels of the data.
        prune: Whether the grids prune the network; otherwise it is only trained and scored.
        name: Label for reports; not part of a trial's identity.
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
        """Whether the network may have the body of a YAMNet, which can be frozen; true for every checkpoint."""
        return not self.model or spec_of(self.model).family in LEAN_FAMILIES

    @property
    def in_words(self) -> str:
        """The label, or else the name of the checkpoint, or else model and width."""
        return base_in_words(self.name, self.model, 1.0 if self.checkpoint else self.width, self.checkpoint)

    def training_with(self, seed: int | None = None) -> dict[str, Any]:
        """Return the settings of the training as JSON values; without a seed the table is only checked.

        Raises:
            ConfigError: If a key is unknown, a value is wrong, or the table gives a seed, weights for a teacher, or
                freezes a body of random weights.
        """
        asked = self.training.get("freeze_yamnet")
        training = frozen_in(training_of(self.training, seed), asked, by_default=bool(self.yamnet))
        if training.freeze_yamnet and not self.yamnet:
            raise ConfigError("freeze_yamnet without yamnet: a body of random weights would stay as it is; give yamnet")
        for name, weight in training.teacher_weights.items():
            raise ConfigError(f"{name}={weight}: a base has no teacher; distil in [[finetune]]")
        return training.to_dict()


def training_of(table: Mapping[str, Any], seed: int | None) -> TrainingConfig:
    """Return the training settings of a table of an experiment, with the seed of a trial if there is one."""
    if "seed" in table:
        raise ConfigError("seed does not go into a training table: list seeds = [...] at the top")
    return read_training(table if seed is None else {**table, "seed": seed})


@dataclass(frozen=True)
class GivenNetwork:
    """Facts about a network that an experiment reads from a file, without its weights.

    Attributes:
        provenance: As in its checkpoint, with the sha256 of its weights.
        folded: Why its batch-norm statistics cannot be re-estimated; empty if they can.
    """

    spec: ModelSpec
    labels: LabelSet
    provenance: Provenance
    folded: str

    @property
    def digest(self) -> str:
        """The sha256 of the weights."""
        return str(self.provenance.sha256)


def read_given(bases: Sequence[BaseConfig]) -> dict[str, GivenNetwork]:
    """Return every network that is given as a file, by its path.

    Raises:
        ConfigError: With every path that does not exist or cannot be read, and every ``yamnet`` that is another
            network.
    """
    found: dict[str, GivenNetwork] = {}
    problems = []
    files = [
        (f"[base {place}] {key}={path!r}", key, path)
        for place, base in enumerate(bases, start=1)
        for key, path in (("checkpoint", base.checkpoint), ("yamnet", base.yamnet))
        if path
    ]
    for where, key, path in files:
        if not Path(path).exists():
            problems.append(f"{where}: no such file or folder, seen from {Path.cwd()}")
            continue
        if path not in found:
            try:
                network = load(path)
            except EpannsError as error:
                problems.append(f"{where}: {error}")
                continue
            folded = error_messages(partial(refuse_folded, network))
            found[path] = GivenNetwork(network.spec, network.labels, network.provenance, "".join(folded))
        if key == "yamnet" and (spec := found[path].spec).family != "yamnet":
            problems.append(f"{where}: holds a {spec.name}, not a YAMNet")
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def network_without_weights(base: BaseConfig, labels: LabelSet, given: Mapping[str, GivenNetwork]) -> Tagger:
    """Return the unpruned network of a base on the meta device, where no weights are allocated.

    A network that is trained in the sweep has the classes of the data, `labels`; `given` is that of `read_given`.
    """
    with torch.device("meta"):
        if base.checkpoint:
            known = given[base.checkpoint]
            network = build_model(known.spec, labels=known.labels)
            network.provenance = known.provenance
            return network
        if base.yamnet:
            return build_model(ZOO[base.model].with_widths(given[base.yamnet].spec.widths), labels=labels)
        return build_model(base.model, width=base.width, labels=labels)
