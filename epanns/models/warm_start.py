"""Networks that start from the weights of another: new classes, or LEAN on the body of a YAMNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epanns.errors import ConfigError
from epanns.labels import LabelSet, same_classes
from epanns.models.families.lean import Lean
from epanns.models.families.yamnet import Yamnet
from epanns.models.provenance import Provenance
from epanns.models.spec import LEAN_FAMILIES
from epanns.models.tagger import Tagger
from epanns.models.tensors import shortened
from epanns.models.zoo import ZOO, build_model, spec_of


@dataclass(frozen=True)
class NewClasses:
    """Classes of a replaced classifier.

    Attributes:
        kept: Name of a class that keeps its weights -> its name in the earlier classifier.
        new: Names of the classes that start from random weights.
    """

    kept: Mapping[str, str]
    new: tuple[str, ...]

    def describe(self) -> str:
        """Return the numbers of kept and new classes in words."""
        total = len(self.kept) + len(self.new)
        if total == 1:
            return "it keeps its weights" if self.kept else "it starts from random weights"
        if not self.kept:
            return f"all {total} classes start from random weights"
        if not self.new:
            return f"all {total} classes keep their weights"
        are = "is" if len(self.new) == 1 else "are"
        return (
            f"{len(self.kept)} of {total} classes keep their weights, {len(self.new)} {are} new: {shortened(self.new)}"
        )


def use_labels(model: Tagger, labels: LabelSet | Sequence[str], *, fresh: bool = False) -> NewClasses:
    """Replace the classifier of a network, in place, by one for other classes; all other weights stay.

    Classes that are also in the present label set, by `labels.same_classes`, keep their weights; other classes start
    from torch's random numbers. The recipe of the network's provenance records the operation.

    Args:
        model: A network of any family, pruned or not; changed in place.
        labels: The new classes in output order; a list of names has no AudioSet identifiers.
        fresh: Start all classes from random weights.

    Raises:
        ConfigError: If `labels` is neither a label set nor a list of names.
        DataError: If a name appears twice.
    """
    if not isinstance(labels, LabelSet):
        if isinstance(labels, str) or not all(isinstance(name, str) for name in labels):
            raise ConfigError(f"labels={labels!r}: must be a LabelSet or a list of names")
        labels = LabelSet.of(labels)
    places = {} if fresh else same_classes(model.labels, labels)
    kept = {labels.names[new]: model.labels.names[old] for new, old in places.items()}
    result = NewClasses(kept, tuple(name for name in labels.names if name not in kept))
    model.reset_classifier(len(labels), labels, keep=places)
    model.provenance = model.provenance.with_operation("transfer", kept=kept, new=list(result.new))
    return result


def require_body(name: str) -> None:
    """Check that a row of the zoo is built on the body of YAMNet.

    Raises:
        ConfigError: If it is not.
    """
    if spec_of(name).family in LEAN_FAMILIES:
        return
    rows = ", ".join(row for row, spec in ZOO.items() if spec.family in LEAN_FAMILIES)
    remedy = "import and fine-tune it (epanns import, epanns finetune)" if name == "YAMNet" else "leave them out"
    raise ConfigError(
        f"{name} is not built on a YAMNet's body, as {rows} are; --yamnet and --freeze-yamnet require it: {remedy}"
    )


def build_on_yamnet(name: str, yamnet: Tagger, *, labels: LabelSet | None = None) -> Lean:
    """Return an untrained network of LEAN's rows with the weights of the body of `yamnet`, pruned or not.

    The provenance has the YAMNet as source and parent.

    Args:
        name: ``LEAN``, ``LEAN_affinity``, ``LEAN_concat``, ``YAMNet_projection`` or ``YAMNet_linear``.
        yamnet: The YAMNet; not changed.
        labels: Names of the classes; FSD50K's by default.

    Raises:
        ConfigError: If `name` is another row, or `yamnet` another network.
    """
    require_body(name)
    if not isinstance(yamnet, Yamnet):
        raise ConfigError(
            f"{yamnet.spec.name} is no YAMNet: give yamnet.h5, its .npz or a checkpoint of YAMNet (--yamnet)"
        )
    spec = ZOO[name].with_widths(yamnet.spec.widths)
    model = build_model(spec, labels=labels)
    assert isinstance(model, Lean)
    model.take_yamnet(yamnet)
    known = yamnet.provenance
    source = "a YAMNet made here" if known.source is None else known.source
    model.provenance = Provenance(f"{name} on the body of {source}", known.sha256, assumed=known.assumed)
    return model


def stays_frozen(provenance: Provenance) -> bool:
    """Return whether YAMNet's body was frozen in the last training of a network."""
    last = provenance.last_training
    return last is not None and bool(last.settings.get("training", {}).get("freeze_yamnet"))
