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
from epanns.models.checkpoint import Checkpoint, checkpoint_folder
from epanns.models.download import ReleasedFile, known_file
from epanns.models.provenance import Operation, Provenance
from epanns.models.recognition import REMEDY, attends, has_attention, mismatch, recognised, with_counters
from epanns.models.spec import ModelSpec
from epanns.models.tagger import FRONT_END_NAMES, Tagger, released_front_end
from epanns.models.tensor_names import StateDict, unwrapped
from epanns.models.tensors import shortened
from epanns.models.torch_file import UNVERIFIED, read_torch_file
from epanns.models.yamnet_file import is_yamnet_file, read_yamnet
from epanns.models.zoo import ZOO
from epanns.safe_text import printable

_ASSUMED_HEAD = (
    "head clip is assumed: decision_max and decision_avg have the same tensors, and neither the catalogue nor the "
    "file's name tells; `epanns import --head` chooses"
)
_ALWAYS_ALLOWED = 1 << 30  # bytes of all tensors, whatever the file's length is; the largest network of PANNs has half

_HEAD_BY_NAME = (
    "head {} is taken from the file's name: the other heads have the same tensors; `epanns import --head` chooses"
)
_ASSUMED_RATE = (
    "a sample rate of {} Hz is assumed: networks on the waveform hold no front end that tells; "
    "`epanns import --sample-rate` chooses"
)


def read_released(
    path: Path, *, sample_rate: int | None = None, head: str | None = None, labels: LabelSet | None = None
) -> Checkpoint:
    """Read ``{'iteration', 'model', 'sampler'}``, ``{'model'}`` or a flat state dict of any of PANNs' networks.

    Wrappers and prefixes of names are those of `state_dict.unwrapped`.

    Which one it is follows from the names of its tensors, and its widths from their shapes. Files of YAMNet are told by
    their first bytes and read by `yamnet_file.read_yamnet`.

    Args:
        path: The ``.pth`` or ``.pt`` file, or YAMNet's ``.h5`` or ``.npz``.
        sample_rate: In Hz; for files without front-end tensors. Where they are there it must agree with them. Networks
            on the waveform have none: theirs is by default that of the zoo, and ``assumed`` in the provenance says so
            unless the file is a known one by its sha256.
        head: One of `spec.HEADS`; by default from the tensors, the catalogue (by sha256) and last the file's name,
            because Cnn14, Cnn14_DecisionLevelMax and Cnn14_DecisionLevelAvg have the same tensors; otherwise
            ``clip``. A head from the name, and ``clip`` by default, stand in ``assumed`` of the provenance.
        labels: Names of the classes; by default AudioSet's for 527 classes, else numbered ones.

    Raises:
        CheckpointError: If the file is damaged, would run code, is of another network, leaves a choice open, or has
            the name of a released file and not its sha256.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pth or .pt; a checkpoint folder needs no import")
    if (folder := checkpoint_folder(path)) != path:
        raise CheckpointError(f"{path} is a file of the checkpoint {folder}, which needs no import: give that folder")
    if is_yamnet_file(path):
        return read_yamnet(path, sample_rate=sample_rate, head=head, labels=labels)
    file = read_torch_file(path)
    state = unwrapped(file.content, path)
    _check_size(state.weights, path)
    _check_values(state.weights, path)
    known = known_file(path, sha256 := sha256_of(path))
    told = head or _told_head(state.weights, known)
    by_name = None if told else _named_head(path)
    spec = recognised(state.weights, path, sample_rate=sample_rate, head=told or by_name)
    front_end_names = FRONT_END_NAMES if spec.reads_logmel else ()
    network = {name: tensor for name, tensor in state.weights.items() if name not in front_end_names}
    whole = with_counters(spec, network)
    if problem := mismatch(spec, {name: _as_float(tensor) for name, tensor in whole.items()}):
        raise CheckpointError(f"{path} is not a {spec.name}: {problem}{_prefix_of(state)}: {REMEDY}")
    assumed = {
        UNVERIFIED: not (file.has_checksums or known),
        _HEAD_BY_NAME.format(by_name): bool(by_name),
        _ASSUMED_HEAD: not (told or by_name) and _has_decision_twin(spec),
        _ASSUMED_RATE.format(spec.front_end.sample_rate): not (spec.reads_logmel or sample_rate or known),
    }
    provenance = Provenance(
        source=_source(path, file.content, state, known),
        sha256=sha256,
        recipe=(_training(file.content),),
        assumed=tuple(assumption for assumption, is_made in assumed.items() if is_made),
        n_read=1,
    )
    notes = list(state.notes)
    if counters := len(whole) - len(network):
        notes.append(f"{counters} counters of batches (num_batches_tracked) are missing and start at 1")
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
    return Checkpoint(spec, weights, _labels(labels, spec.num_classes, path), provenance, tuple(notes))


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


def _as_float(tensor: Tensor) -> Tensor:
    """Return a tensor without values of the type that it is loaded as: any floating-point type becomes float32."""
    return tensor.to("meta", torch.float32 if tensor.is_floating_point() else tensor.dtype)


def _check_size(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that claim far more numbers than the file holds, such as one number that stands for billions."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    limit = max(_ALWAYS_ALLOWED, 4 * path.stat().st_size)
    if total > limit:
        raise CheckpointError(
            f"{path}: its tensors would take {total:,} bytes, must be at most {limit:,} in a file of "
            f"{path.stat().st_size:,}: save the network's state_dict() with all its values"
        )


def _check_values(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse NaN and infinity, in float32 too."""
    floating = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    if broken := [name for name, tensor in floating.items() if not bool(tensor.float().isfinite().all())]:
        raise CheckpointError(
            f"{path}: NaN or infinity in {shortened(broken)}: its weights have diverged or are damaged: "
            "download or copy the file again, or give weights of an earlier iteration"
        )


def _prefix_of(state: StateDict) -> str:
    return f"; all names begin with {shortened([state.prefix + '.'])}, which was removed" if state.prefix else ""


def _told_head(weights: Mapping[str, Tensor], known: ReleasedFile | None) -> str | None:
    """Return the head that the tensors or the catalogue decide; None where neither does."""
    if has_attention(weights):
        return "decision_att"
    if known is not None and not attends(ZOO[known.network].head):
        return ZOO[known.network].head
    return None


def _named_head(path: Path) -> str | None:
    """Return the head that the name of a file hints at."""
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


def _training(content: Any) -> Operation:
    """Return the one operation that is known of the weights of a released file: their publisher trained them."""
    iteration = content.get("iteration") if "model" in content else None
    known = {"iteration": iteration} if isinstance(iteration, int) else {}
    return Operation("train", {"by": "the publisher of the file", **known})


def _source(path: Path, content: Any, state: StateDict, known: ReleasedFile | None) -> str:
    iteration = content.get("iteration") if "model" in content else None
    details = [f"iteration {iteration}"] if isinstance(iteration, int) else []
    details += [f"tensors of {'.'.join(state.keys)}"] if state.keys not in ((), ("model",), ("state_dict",)) else []
    details += [f"names without {shortened([state.prefix + '.'])}"] if state.prefix else []
    return ", ".join(
        [printable(path.name), *details, f"the released file {known.url}" if known else "not a known released file"]
    )
