"""Released PANNs and E-PANNs files: read into a `Checkpoint`, and written for users of the original code.

Our networks have the module names of these files, so that tensors need no translation: a public format, never rename
them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epanns.atomic import refuse_existing, replacing, sha256_of
from epanns.errors import CheckpointError
from epanns.labels import LabelSet, audioset
from epanns.models.catalogue import ReleasedFile, released_files
from epanns.models.checkpoint import Checkpoint
from epanns.models.frozen_front_end import FRONT_END_NAMES, released_front_end
from epanns.models.recognition import REMEDY, attends, has_attention, mismatch, recognised
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import shortened
from epanns.models.torch_file import read_torch_file
from epanns.models.yamnet_file import is_yamnet_file, read_yamnet
from epanns.models.zoo import ZOO

_ASSUMED_HEAD = (
    "head clip is assumed: decision_max and decision_avg have the same tensors, and neither the catalogue nor the "
    "file's name tells; `epanns import --head` chooses"
)
_ASSUMED_RATE = (
    "a sample rate of {} Hz is assumed: networks on the waveform hold no front end that tells; "
    "`epanns import --sample-rate` chooses"
)


def read_released(
    path: Path, *, sample_rate: int | None = None, head: str | None = None, labels: LabelSet | None = None
) -> Checkpoint:
    """Read ``{'iteration', 'model', 'sampler'}``, ``{'model'}`` or a flat state dict of any of PANNs' networks.

    Which one it is follows from the names of its tensors, and its widths from their shapes. Files of YAMNet are told by
    their first bytes and read by `yamnet_file.read_yamnet`.

    Args:
        path: The ``.pth`` or ``.pt`` file, or YAMNet's ``.h5`` or ``.npz``.
        sample_rate: In Hz; for files without front-end tensors. Where they are there it must agree with them. Networks
            on the waveform have none: theirs is by default that of the zoo, and ``assumed`` in the provenance says so
            unless the file is a known one, by its sha256 or its name.
        head: One of `spec.HEADS`; by default from the tensors, the catalogue (by sha256) and the file's name, because
            Cnn14, Cnn14_DecisionLevelMax and Cnn14_DecisionLevelAvg have the same tensors. Where none of them tells,
            it is ``clip``, and ``assumed`` in the provenance says so.
        labels: Names of the classes; by default AudioSet's for 527 classes, else numbered ones.

    Raises:
        CheckpointError: If the file is damaged, would run code, is of another network, or leaves a choice open.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pth or .pt; a checkpoint folder needs no import")
    if is_yamnet_file(path):
        return read_yamnet(path, sample_rate=sample_rate, head=head, labels=labels)
    content = read_torch_file(path)
    weights = _state_dict(content, path)
    sha256 = sha256_of(path)
    known = _known_file(path, sha256)
    told = head or _told_head(weights, path, known)
    spec = recognised(weights, path, sample_rate=sample_rate, head=told)
    front_end_names = FRONT_END_NAMES if spec.reads_logmel else ()
    network = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
        if name not in front_end_names
    }
    if problem := mismatch(spec, network):
        raise CheckpointError(f"{path} is not a {spec.name}: {problem}: {REMEDY}")
    assumed = {
        _ASSUMED_HEAD: not told and _has_decision_twin(spec),
        _ASSUMED_RATE.format(spec.front_end.sample_rate): not (spec.reads_logmel or sample_rate or known),
    }
    provenance = {
        "source": _source(path, content, sha256),
        "sha256": sha256,
        "recipe": [_training(content)],
        "assumed": [assumption for assumption, is_made in assumed.items() if is_made],
    }
    return Checkpoint(spec, network, _labels(labels, spec.num_classes, path), provenance)


def to_panns(model: Tagger) -> dict[str, dict[str, Tensor]]:
    """Return ``{'model': state dict}`` with the front-end tensors where it has one, as the original code loads it.

    The original classes have fixed widths: a pruned network needs one with these widths, such as E-PANNs' own.

    Raises:
        CheckpointError: If the network is none of PANNs'.
    """
    if model.spec.front_end.is_yamnet:
        raise CheckpointError(f"{model.spec.name} is none of PANNs' networks: save it as a checkpoint folder")
    front_end = released_front_end(model.spec.front_end) if model.spec.reads_logmel else {}
    state = front_end | model.state_dict()
    return {"model": {name: tensor.detach().cpu().clone() for name, tensor in state.items()}}


def export_panns(model: Tagger, path: Path) -> None:
    """Write `to_panns` as a ``.pth`` file.

    Raises:
        OutputError: If the path exists.
    """
    refuse_existing(path)
    with replacing(path) as partial:
        torch.save(to_panns(model), partial)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """Unwrap ``model``, drop ``module.`` of DataParallel, and return the tensors by name: dense and finite ones."""
    weights = content
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            weights = content[key]
            break
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{path}: holds a {type(weights).__name__} and no tensors by name: is it a PANNs file?")
    if others := [str(name) for name, tensor in weights.items() if not isinstance(tensor, Tensor)]:
        raise CheckpointError(
            f"{path}: {shortened(others)} are no tensors; a PANNs file is {{'model': state_dict}} or a state_dict"
        )
    if others := [str(name) for name, tensor in weights.items() if not _is_dense(tensor)]:
        raise CheckpointError(
            f"{path}: {shortened(others)}: sparse, quantised or without values, and epanns reads dense tensors only: "
            "save the network's dense floating-point state_dict() and give that"
        )
    if broken := [str(name) for name, tensor in weights.items() if not _is_finite(tensor)]:
        raise CheckpointError(
            f"{path}: NaN or infinity in {shortened(broken)}: its weights have diverged or are damaged: "
            "download or copy the file again, or give weights of an earlier iteration"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}


def _is_dense(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested
    return strided and not tensor.is_quantized and not tensor.is_meta


def _is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds numbers only, and in float32 too."""
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _known_file(path: Path, sha256: str) -> ReleasedFile | None:
    """Return the released file that this one is by its contents, or else by its name."""
    by_contents = next((file for file in released_files() if file.sha256 == sha256), None)
    return by_contents or next((file for file in released_files() if file.name == path.name), None)


def _told_head(weights: Mapping[str, Tensor], path: Path, known: ReleasedFile | None) -> str | None:
    """Return the head that tensors, catalogue or file name tell; None where nothing does."""
    if has_attention(weights):
        return "decision_att"
    if known is not None and not attends(ZOO[known.network].head):
        return ZOO[known.network].head
    by_name = {"DecisionLevelMax": "decision_max", "DecisionLevelAvg": "decision_avg"}
    return next((head for part, head in by_name.items() if part in path.name), None)


def _has_decision_twin(spec: ModelSpec) -> bool:
    """Return whether a released network with these layers pools after its classifier, on the same tensors."""
    return any(
        row.head in ("decision_max", "decision_avg") and row.widths.keys() == spec.widths.keys() for row in ZOO.values()
    )


def _labels(labels: LabelSet | None, num_classes: int, path: Path) -> LabelSet:
    if labels is None:
        return audioset() if num_classes == len(audioset()) else LabelSet.numbered(num_classes)
    if len(labels) != num_classes:
        raise CheckpointError(f"{path}: {num_classes} classes, but {len(labels)} labels given: give one per class")
    return labels


def _training(content: Any) -> dict[str, Any]:
    """Return the one step that is known of a released file's weights: somebody trained them."""
    iteration = content.get("iteration") if "model" in content else None
    known = {"iteration": iteration} if isinstance(iteration, int) else {}
    return {"step": "train", "by": "the publisher of the file", **known}


def _source(path: Path, content: Any, sha256: str) -> str:
    iteration = content.get("iteration") if "model" in content else None
    known = next((file.url for file in released_files() if file.sha256 == sha256), None)
    details = [f"iteration {iteration}"] if isinstance(iteration, int) else []
    return ", ".join([path.name, *details, f"the released file {known}" if known else "not a known released file"])
