"""The networks an experiment is given: what is known of them without their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from epanns.errors import ConfigError, EpannsError, PruningError
from epanns.labels import LabelSet
from epanns.models.load import load
from epanns.models.provenance import Provenance
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.yamnet import Yamnet
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.recovery.recalibrate import refuse_folded
from epanns.sweeps.base import BaseConfig


@dataclass(frozen=True)
class GivenNetwork:
    """A checkpoint, or a YAMNet whose body a base is built on.

    Attributes:
        spec: The network.
        labels: Its classes.
        provenance: As in its checkpoint, with the sha256 of its weights.
        folded: Why its batch norms cannot be measured again; empty where they can.
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
    """Return every network that is given, by its path.

    Raises:
        ConfigError: With every path at which there is none, or none that can be read, or, for ``yamnet``, another
            network.
    """
    found: dict[str, GivenNetwork] = {}
    problems = []
    for number, base in enumerate(bases, start=1):
        for key, path in (("checkpoint", base.checkpoint), ("yamnet", base.yamnet)):
            if not path:
                continue
            where = f"[base {number}] {key}={path!r}"
            if not Path(path).exists():
                problems.append(f"{where}: no such file or folder, seen from {Path.cwd()}")
                continue
            try:
                network = found[path] if path in found else _read(path)
            except EpannsError as error:
                problems.append(f"{where}: {error}")
                continue
            if key == "yamnet" and network.spec.family != "yamnet":
                problems.append(f"{where}: holds a {network.spec.name}, not a YAMNet")
            found[path] = network
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def _read(path: str) -> GivenNetwork:
    network = load(path)
    try:
        refuse_folded(network)
        folded = ""
    except PruningError as error:
        folded = str(error)
    assert (network.spec.family == "yamnet") == isinstance(network, Yamnet)
    return GivenNetwork(network.spec, network.labels, network.provenance, folded)


def network_without_weights(base: BaseConfig, labels: LabelSet, given: Mapping[str, GivenNetwork]) -> Tagger:
    """Return the unpruned network of a base on the meta device, where nothing is allocated.

    Args:
        base: From an experiment.
        labels: Classes of the data, which a network that is trained here gets.
        given: From `read_given`.
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
