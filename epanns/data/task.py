"""Whether a network and a pack are about the same task: sample rate and classes."""

from epanns.data.dataset import PackDataset
from epanns.errors import ConfigError
from epanns.labels import LabelSet
from epanns.models.cnn import Cnn


def require_same_task(model: Cnn, dataset: PackDataset) -> None:
    """Raise `ConfigError` if the model's sample rate or classes are not those of the pack."""
    rate = model.spec.front_end.sample_rate
    if rate != dataset.sample_rate:
        raise ConfigError(
            f"{model.spec.name} hears {rate} Hz, the pack {dataset.dataset_name} holds {dataset.sample_rate} Hz: "
            f"pack the manifest again with --sample-rate {rate}"
        )
    difference = _label_difference(model.labels, dataset.labels)
    if difference:
        raise ConfigError(
            f"{model.spec.name} and the pack {dataset.dataset_name} have different classes ({difference}): "
            f"fine-tune on this label set first, or pack with the model's labels"
        )


def _label_difference(ours: LabelSet, theirs: LabelSet) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} classes in the model, {len(theirs)} in the pack"
    for index, (mine, other) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if mine != other:
            return f"class {index} is {mine!r} in the model, {other!r} in the pack"
    return ""
