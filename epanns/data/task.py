"""Whether a network and its packs fit.

One sample rate, the same classes, one of them for each clip where the network tells one; no clip on both sides of a
split.
"""

import numpy as np
from numpy.typing import NDArray

from epanns.data.clip_source import ClipColumns, ClipSource
from epanns.data.dataset import PackDataset
from epanns.errors import ConfigError, PackError
from epanns.labels import LabelSet
from epanns.models.tagger import Tagger


def require_same_task(model: Tagger, dataset: PackDataset) -> None:
    """Raise `ConfigError` if the model's sample rate, classes or task are not those of the pack.

    A single-label network needs clips of exactly one class.
    """
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
    if model.spec.task == "single-label":
        require_single_labels(dataset)


def require_same_classes(training: PackDataset, validation: PackDataset) -> None:
    """Raise `ConfigError` if the clips that choose the best step have other classes than those to learn from."""
    difference = _label_difference(training.labels, validation.labels, "the training clips", "the validation clips")
    if difference:
        raise ConfigError(
            f"the packs {training.dataset_name} and {validation.dataset_name} have different classes ({difference}): "
            "pack the training and the validation clips from one manifest, or from manifests with the same classes"
        )


def require_single_labels(dataset: PackDataset) -> None:
    """Raise `ConfigError` if a clip has no class or several; how many do and the first one are named."""
    counts = dataset.targets.counts_by_clip()
    if len(others := np.flatnonzero(counts != 1)):
        first = others[0]
        raise ConfigError(
            f"{len(others)} of {len(counts)} clips of {dataset.dataset_name} have no class or several, first "
            f"{dataset.clip_ids[first].decode()!r} with {counts[first]}: a single-label network needs exactly one for "
            "each; train a multi-label one (--task multi-label), or pack clips of one class"
        )


def in_the_models_order(model: Tagger, dataset: PackDataset) -> PackDataset:
    """Return the data set with the model's classes in the model's order, where they are the same classes.

    Classes are the same by AudioSet identifier or, where one side has none, by name. Other classes are left as they
    are: `require_same_task` says how they differ.
    """
    if dataset.labels.names == model.labels.names or len(dataset.labels) != len(model.labels):
        return dataset
    try:
        return dataset.with_labels(model.labels)
    except PackError:
        return dataset


def refuse_leak(training: PackDataset, held_out: PackDataset, *, part: str) -> None:
    """Raise `PackError` if a training clip is among the clips that choose or score the network."""
    clips, told = shared_clips(training, held_out)
    if len(clips):
        raise PackError(
            f"{len(clips)} of {len(held_out)} {part} clips are training clips too{told}, first "
            f"{clips[0].decode()!r}: that is a leak; pack splits that do not overlap"
        )


def shared_clips(training: PackDataset, held_out: PackDataset) -> tuple[NDArray[np.bytes_], str]:
    """Return the ids of the clips in `held_out`, in its order, that are in `training` too, and a remark.

    The remark, empty or in brackets, says why where ids alone tell it.

    Within one data set, told by its name, the id decides: the samples of a clip depend on how its file was encoded.
    Between two data sets, whose ids may be mere file names, a clip is the same if its id and the checksum of its
    samples are. Where one side has no checksums, or the rows differ in length or rate, the id alone decides there too.
    """
    leaked, remarks = [], {}
    for theirs in held_out.sources:
        for ours in training.sources:
            comparable = _have_comparable_checksums(ours, theirs)
            equal = _shared_clips(ours.columns, theirs.columns, by_id_alone=not comparable)
            by_id = ours.dataset == theirs.dataset
            leaked.append(_shared_clips(ours.columns, theirs.columns, by_id_alone=True) if by_id else equal)
            if len(leaked[-1]) > len(equal):
                remarks[f"both are of {ours.dataset}; if these are two data sets, give one another name"] = True
            elif len(equal) and not comparable:
                remarks["these packs' checksums cannot be compared"] = True
    return np.concatenate(leaked), f" (told by their ids alone: {'; '.join(remarks)})" if remarks else ""


def _have_comparable_checksums(ours: ClipSource, theirs: ClipSource) -> bool:
    if ours.columns.crc32 is None or theirs.columns.crc32 is None:
        return False
    return (ours.sample_rate, ours.clip_samples) == (theirs.sample_rate, theirs.clip_samples)


def _shared_clips(ours: ClipColumns, theirs: ClipColumns, *, by_id_alone: bool) -> NDArray[np.bytes_]:
    """Return the ids of the clips in `theirs`, in its order, that are in `ours` too."""
    order = np.argsort(theirs.clip_ids)
    ascending = theirs.clip_ids[order]
    place = np.minimum(np.searchsorted(ascending, ours.clip_ids), len(order) - 1)
    found = np.flatnonzero(ascending[place] == ours.clip_ids)
    same = order[place[found]]
    if not by_id_alone:
        assert ours.crc32 is not None and theirs.crc32 is not None  # noqa: S101 - asked before
        same = same[ours.crc32[found] == theirs.crc32[same]]
    return theirs.clip_ids[np.sort(same)]


def _label_difference(ours: LabelSet, theirs: LabelSet, one: str = "the model", other: str = "the pack") -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} classes in {one}, {len(theirs)} in {other}"
    for index, (mine, yours) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if mine != yours:
            return f"class {index} is {mine!r} in {one}, {yours!r} in {other}"
    return ""
