"""A network for other classes: those it knows go on with their weights, the others start from random ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epanns.errors import ConfigError
from epanns.labels import LabelSet, same_classes
from epanns.models.tagger import Tagger
from epanns.models.tensors import shortened


@dataclass(frozen=True)
class NewClasses:
    """What became of a classifier.

    Attributes:
        kept: Name of a class -> name under which the network knew it; it goes on with its weights.
        new: Names of the classes that start from random weights.
    """

    kept: Mapping[str, str]
    new: tuple[str, ...]

    def describe(self) -> str:
        """Return it in words."""
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

    Classes that the network knows, by the rule of `labels.same_classes`, go on with their rows of weights; the others
    start from torch's random numbers. The recipe in the network's provenance has it as a step.

    Args:
        model: Of any family, pruned or not.
        labels: The classes it shall have, in output order; a list of names is one of classes without identifiers.
        fresh: Start all of them from random weights.

    Raises:
        ConfigError: If `labels` are neither a label set nor names.
        DataError: If a name stands more than once.
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
