"""Released files of PANNs, E-PANNs and EfficientAT: read into a `Checkpoint`, and written for the original code.

The modules of epanns have the names of the tensors in these files, so that state dicts load without translation. These
names are a public format: never rename them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from epanns.atomic import refuse_existing, replacing, sha256_of
from epanns.errors import CheckpointError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import Checkpoint, checkpoint_folder, labels_for
from epanns.models.files.download import ReleasedFile, known_file
from epanns.models.files.recognition import REMEDY, has_attention, mismatch, recognised, with_counters
from epanns.models.files.tensor_names import StateDict, unwrapped
from epanns.models.files.torch_file import UNVERIFIED, read_torch_file
from epanns.models.files.yamnet_file import is_yamnet_file, read_yamnet
from epanns.models.provenance import Operation, Provenance
from epanns.models.spec import ModelSpec
from epanns.models.tagger import FRONT_END_NAMES, Tagger, released_front_end
from epanns.models.tensors import shortened
from epanns.models.zoo import ZOO
from epanns.safe_text import printable

_ALWAYS_ALLOWED = 1 << 30  # bytes of all tensors, whatever the file's length; the largest network of PANNs has half
_HEADS_BY_NAME = {"DecisionLevelMax": "decision_max", "DecisionLevelAvg": "decision_avg"}

# Assumptions that are recorded in config.json; a changed text changes the bytes of checkpoints.
_HEAD_BY_NAME = (
    "head {} is taken from the file's name: the other heads have the same tensors; `epanns import --head` chooses"
)
_ASSUMED_HEAD = (
    "head clip is assumed: decision_max and decision_avg have the same tensors, and neither the catalogue nor the "
    "file's name tells; `epanns import --head` chooses"
)
_ASSUMED_RATE = (
    "a sample rate of {} Hz is assumed: networks on the waveform hold no front end that tells; "
    "`epanns import --sample-rate` chooses"
)
_ASSUMED_FRONT_END = (
    "a hop of {hop} ms and {mel_bins} mel bins are assumed: EfficientAT's files hold no front end, and only names with "
    "_hop_ or _mels_ state another one"
)


def read_released(
    path: Path, *, sample_rate: int | None = None, head: str | None = None, labels: LabelSet | None = None
) -> Checkpoint:
    """Read ``{'iteration', 'model', 'sampler'}``, ``{'model'}`` or a flat state dict of PANNs or EfficientAT.

    Wrappers and prefixes of names are those of `tensor_names.unwrapped`. The names of the tensors determine the
    network, their shapes its widths. Files of YAMNet are recognised by their first bytes and read by
    `yamnet_file.read_yamnet`.

    Args:
        path: A ``.pth`` or ``.pt`` file, or YAMNet's ``.h5`` or ``.npz``.
        sample_rate: In Hz; needed for log-mel networks without front-end tensors; must agree with such tensors. For
            networks on the waveform the default is that of the zoo, and ``assumed`` in the provenance records it
            unless the sha256 of the file is a known one. EfficientAT's have 32,000; their hop and mel bins are those
            that the file's name states, or 10 ms and 128, which ``assumed`` records too.
        head: One of `spec.HEADS`; by default from the tensors, the catalogue (by sha256), the file's name, or
            ``clip``: Cnn14, Cnn14_DecisionLevelMax and Cnn14_DecisionLevelAvg have the same tensors. The last two
            are recorded in ``assumed`` of the provenance.
        labels: Names of the classes; by default AudioSet's for 527 classes, else numbered classes.

    Raises:
        CheckpointError: If the file is damaged, would run code, is of another network, leaves a choice open, or has
            the name of a released file and another sha256.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pth or .pt; a checkpoint folder needs no import")
    if (folder := checkpoint_folder(path)) != path:
        raise CheckpointError(f"{path} is a file of the checkpoint {folder}, which needs no import: give that folder")
    if is_yamnet_file(path):
        return read_yamnet(path, sample_rate=sample_rate, head=head, labels=labels)
    file = read_torch_file(path)
    state = unwrapped(file.content, path)
    _check_numbers(state.weights, path)
    known = known_file(path, sha256 := sha256_of(path))
    catalogued = None if known is None else ZOO[known.network].head
    known_head = head or ("decision_att" if has_attention(state.weights) else catalogued)
    by_name = None
    if known_head is None:
        by_name = next((head for part, head in _HEADS_BY_NAME.items() if part in path.name), None)
    spec = recognised(state.weights, path, sample_rate=sample_rate, head=known_head or by_name)
    front_end_names = FRONT_END_NAMES if spec.reads_logmel and spec.front_end.kind == "panns" else ()
    network = {name: tensor for name, tensor in state.weights.items() if name not in front_end_names}
    whole = with_counters(spec, network)
    # Compared as loaded: tensors of all floating-point types become float32.
    loaded = {
        name: each.to("meta", torch.float32 if each.is_floating_point() else None) for name, each in whole.items()
    }
    if problem := mismatch(spec, loaded):
        removed = f"; all names begin with {shortened([state.prefix + '.'])}, which was removed" if state.prefix else ""
        raise CheckpointError(f"{path} is not a {spec.name}: {problem}{removed}: {REMEDY}")
    has_alternatives = any(
        row.head in _HEADS_BY_NAME.values() and row.widths.keys() == spec.widths.keys() for row in ZOO.values()
    )
    assumed = {
        UNVERIFIED: not (file.has_checksums or known),
        _HEAD_BY_NAME.format(by_name): by_name is not None,
        _ASSUMED_HEAD: (known_head or by_name) is None and has_alternatives,
        _assumed_front_end(spec): spec.front_end.kind == "efficientat" and known is None,
        _ASSUMED_RATE.format(spec.front_end.sample_rate): not (spec.reads_logmel or sample_rate or known),
    }
    iteration = file.content.get("iteration") if "model" in file.content else None
    iteration = iteration if isinstance(iteration, int) else None
    training = {"by": "the publisher of the file"} | ({} if iteration is None else {"iteration": iteration})
    provenance = Provenance(
        source=_source(path, iteration, state, known),
        sha256=sha256,
        recipe=(Operation("train", training),),
        assumed=tuple(assumption for assumption, is_made in assumed.items() if is_made),
        n_read=1,
    )
    notes = list(state.notes)
    if counters := len(whole) - len(network):
        notes.append(f"{counters} counters of batches (num_batches_tracked) are missing and start at 1")
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
    return Checkpoint(spec, weights, labels_for(path, spec, labels), provenance, tuple(notes))


def to_panns(model: Tagger) -> dict[str, dict[str, Tensor]]:
    """Return ``{'model': state dict}`` for the original code, with the tensors of the front end.

    The original classes have fixed widths: a pruned network needs a class with its widths, such as that of E-PANNs.

    Raises:
        CheckpointError: If the network is not one of PANNs.
    """
    if model.spec.front_end.kind != "panns":
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


def _check_numbers(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors far larger than the file, such as one number expanded to billions; and NaN and infinity."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    limit = max(_ALWAYS_ALLOWED, 4 * path.stat().st_size)
    if total > limit:
        raise CheckpointError(
            f"{path}: its tensors would take {total:,} bytes, must be at most {limit:,} in a file of "
            f"{path.stat().st_size:,}: save the network's state_dict() with all its values"
        )
    # In float32, the type they are loaded in: some values of float64 overflow it.
    floating = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    if broken := [name for name, tensor in floating.items() if not bool(tensor.float().isfinite().all())]:
        raise CheckpointError(
            f"{path}: NaN or infinity in {shortened(broken)}: its weights have diverged or are damaged: "
            "download or copy the file again, or give weights of an earlier iteration"
        )


def _assumed_front_end(spec: ModelSpec) -> str:
    front_end = spec.front_end
    hop = 1000 * front_end.hop_size / front_end.sample_rate
    return _ASSUMED_FRONT_END.format(hop=f"{hop:g}", mel_bins=front_end.mel_bins)


def _source(path: Path, iteration: int | None, state: StateDict, known: ReleasedFile | None) -> str:
    details = [] if iteration is None else [f"iteration {iteration}"]
    details += [f"tensors of {'.'.join(state.keys)}"] if state.keys not in ((), ("model",), ("state_dict",)) else []
    details += [f"names without {shortened([state.prefix + '.'])}"] if state.prefix else []
    return ", ".join(
        [printable(path.name), *details, f"the released file {known.url}" if known else "not a known released file"]
    )
