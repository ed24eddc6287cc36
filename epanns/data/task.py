"""Whether a network and its packs fit: one sample rate, the same classes, no clip on both sides of a split."""

from epanns.data.dataset import PackDataset
from epanns.errors import ConfigError, PackError
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


def refuse_leak(training: PackDataset, held_out: PackDataset, *, part: str) -> None:
    """Raise `PackError` if a training clip is among the clips that choose or score the network."""
    seen = set(zip(training.clip_ids.tolist(), training.crc32.tolist(), strict=True))
    shared = [clip for clip in zip(held_out.clip_ids.tolist(), held_out.crc32.tolist(), strict=True) if clip in seen]
    if shared:
        first = shared[0][0].decode()
        raise PackError(
            f"{len(shared)} of {len(held_out)} {part} clips are training clips too, first {first!r}: that is a "
            "leak; pack splits that do not overlap"
        )


def _label_difference(ours: LabelSet, theirs: LabelSet) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} classes in the model, {len(theirs)} in the pack"
    for index, (mine, other) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if mine != other:
            return f"class {index} is {mine!r} in the model, {other!r} in the pack"
    return ""
