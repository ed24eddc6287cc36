"""Check that a network and its packs fit, and that no clip is in both the training and an evaluation pack.

A network and a pack fit if they have the same sample rate and the same classes, and if every clip of a single-label
network has exactly one class.
"""

import numpy as np
from numpy.typing import NDArray

from epanns.data.batches.dataset import PackDataset
from epanns.data.packs.any_pack import ClipColumns
from epanns.errors import ConfigError, PackError
from epanns.labels import LabelSet
from epanns.models.tagger import Tagger


def require_same_rate(model: Tagger, dataset: PackDataset) -> None:
    """Raise `ConfigError` if the model's sample rate differs from that of the pack."""
    rate = model.spec.front_end.sample_rate
    if rate != dataset.sample_rate:
        raise ConfigError(
            f"{model.spec.name} has a sample rate of {rate} Hz, the pack {dataset.dataset_name} has "
            f"{dataset.sample_rate} Hz: pack the manifest again with --sample-rate {rate}"
        )


def require_same_task(model: Tagger, dataset: PackDataset) -> None:
    """Raise `ConfigError` if the model's sample rate, classes or task differ from those of the pack."""
    require_same_rate(model, dataset)
    difference = _label_difference(model.labels, dataset.labels)
    if difference:
        raise ConfigError(
            f"{model.spec.name} and the pack {dataset.dataset_name} have different classes ({difference}): "
            f"fine-tune on this label set first, or pack with the model's labels"
        )
    if model.spec.task == "single-label":
        require_single_labels(dataset)


def require_same_outputs(one: Tagger, other: Tagger) -> None:
    """Raise `ConfigError` if the classes or the tasks of two networks differ."""
    first, second = f"the first ({one.spec.name})", f"the second ({other.spec.name})"
    difference = _label_difference(one.labels, other.labels, first, second)
    if not difference and one.spec.task != other.spec.task:
        difference = f"{one.spec.task} in {first}, {other.spec.task} in {second}"
    if difference:
        raise ConfigError(
            f"the networks have different classes or tasks ({difference}): must be equal; compare a pruned network "
            "with the network that it was made of"
        )


def require_same_classes(training: PackDataset, validation: PackDataset) -> None:
    """Raise `ConfigError` if the classes of the training and the validation pack differ."""
    difference = _label_difference(training.labels, validation.labels, "the training clips", "the validation clips")
    if difference:
        raise ConfigError(
            f"the packs {training.dataset_name} and {validation.dataset_name} have different classes ({difference}): "
            "pack the training and the validation clips from one manifest, or from manifests with the same classes"
        )


def require_single_labels(dataset: PackDataset) -> None:
    """Raise `ConfigError` with the number of clips, and the first, that do not have exactly one class."""
    counts = dataset.targets.counts_by_clip()
    if len(others := np.flatnonzero(counts != 1)):
        first = others[0]
        raise ConfigError(
            f"{len(others)} of {len(counts)} clips of {dataset.dataset_name} have no class or several, first "
            f"{dataset.clip_ids[first].decode()!r} with {counts[first]}: a single-label network needs exactly one for "
            "each; train a multi-label one (--task multi-label), or pack clips of one class"
        )


def in_the_models_order(model: Tagger, dataset: PackDataset) -> PackDataset:
    """Return the data set with the classes in the model's order, if they are the same classes.

    Classes are equal by AudioSet identifier or, if one of them has none, by name. A data set with other classes is
    returned unchanged; `require_same_task` then reports the difference.
    """
    if dataset.labels.names == model.labels.names or len(dataset.labels) != len(model.labels):
        return dataset
    try:
        return dataset.with_labels(model.labels)
    except PackError:
        return dataset


def refuse_leak(training: PackDataset, held_out: PackDataset, *, part: str) -> None:
    """Raise `PackError` if a training clip is also in a validation or test pack.

    Args:
        training: Clips to train on.
        held_out: Clips to choose or score the network with.
        part: Name of the held-out clips in the message, such as ``validation``.
    """
    clips, remark = shared_clips(training, held_out)
    if len(clips):
        raise PackError(
            f"{len(clips)} of {len(held_out)} {part} clips are training clips too{remark}, first "
            f"{clips[0].decode()!r}: that is a leak; pack splits that do not overlap"
        )


def shared_clips(training: PackDataset, held_out: PackDataset) -> tuple[NDArray[np.bytes_], str]:
    """Return the ids of the clips of `held_out`, in its order, that are also in `training`.

    Within a data set, which is identified by its name, clips are equal if their ids are: the samples of a clip depend
    on how its file was encoded. In two data sets, whose ids may be file names, clips are equal if both their ids and
    the checksums of their samples are. If a pack has no checksums, or the rows differ in length or sample rate, the ids
    are compared alone.

    Returns:
        The ids, and the reason, in brackets, if clips are equal by their ids alone; otherwise empty.
    """
    leaked, remarks = [], {}
    for theirs in held_out.sources:
        for ours in training.sources:
            comparable = (
                (ours.sample_rate, ours.clip_samples) == (theirs.sample_rate, theirs.clip_samples)
                and ours.columns.crc32 is not None
                and theirs.columns.crc32 is not None
            )
            equal = _shared_clips(ours.columns, theirs.columns, by_id_alone=not comparable)
            by_id = ours.dataset == theirs.dataset
            leaked.append(_shared_clips(ours.columns, theirs.columns, by_id_alone=True) if by_id else equal)
            if len(leaked[-1]) > len(equal):
                remarks[f"both are of {ours.dataset}; if these are two data sets, rename one of them"] = True
            elif len(equal) and not comparable:
                remarks["these packs' checksums cannot be compared"] = True
    return np.concatenate(leaked), f" (equal by their ids alone: {'; '.join(remarks)})" if remarks else ""


def _shared_clips(ours: ClipColumns, theirs: ClipColumns, *, by_id_alone: bool) -> NDArray[np.bytes_]:
    """Return the ids of the clips of `theirs`, in its order, that are also in `ours`."""
    order = np.argsort(theirs.clip_ids)
    ascending = theirs.clip_ids[order]
    place = np.minimum(np.searchsorted(ascending, ours.clip_ids), len(order) - 1)
    found = np.flatnonzero(ascending[place] == ours.clip_ids)
    same = order[place[found]]
    if not by_id_alone:
        assert ours.crc32 is not None and theirs.crc32 is not None  # noqa: S101 - checked by the caller
        same = same[ours.crc32[found] == theirs.crc32[same]]
    return theirs.clip_ids[np.sort(same)]


def _label_difference(ours: LabelSet, theirs: LabelSet, first: str = "the model", second: str = "the pack") -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} classes in {first}, {len(theirs)} in {second}"
    for index, (mine, yours) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if mine != yours:
            return f"class {index} is {mine!r} in {first}, {yours!r} in {second}"
    return ""
