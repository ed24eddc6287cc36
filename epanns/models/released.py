"""Released PANNs and E-PANNs files: read into a `Checkpoint`, and written for users of the original code.

Module names of `Cnn` are those of these files, so that tensors need no translation: a public format, never rename them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epanns.atomic import refuse_existing, replacing, sha256_of
from epanns.audio.frontend import FrontEndSpec
from epanns.errors import CheckpointError, ConfigError
from epanns.labels import LabelSet, audioset
from epanns.models.catalogue import released_files
from epanns.models.checkpoint import Checkpoint
from epanns.models.frozen_front_end import FRONT_END_NAMES, check_front_end, released_front_end
from epanns.models.spec import HEADS, ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import difference, expected_forms, forms_of, shortened
from epanns.models.torch_file import read_torch_file
from epanns.models.zoo import FRONT_ENDS, ZOO

_ATTENTION = "att_block.att.weight"
_ASSUMED_HEAD = (
    "head clip is assumed: decision_max and decision_avg have the same tensors, and neither the catalogue nor the "
    "file's name tells; `epanns import --head` chooses"
)
_REMEDY = "download or copy the whole file again, or give one of a network that `epanns models` lists"
_CONV = re.compile(r"(conv_block(\d+)\.conv(\d+))\.weight")


def read_released(
    path: Path, *, sample_rate: int | None = None, head: str | None = None, labels: LabelSet | None = None
) -> Checkpoint:
    """Read ``{'iteration', 'model', 'sampler'}``, ``{'model'}`` or a flat state dict; the network follows from shapes.

    Args:
        path: The ``.pth`` or ``.pt`` file.
        sample_rate: In Hz; for files without front-end tensors. Where they are there it must agree with them.
        head: One of `spec.HEADS`; by default from the tensors, the catalogue (by sha256) and the file's name, because
            Cnn14, Cnn14_DecisionLevelMax and Cnn14_DecisionLevelAvg have the same tensors. Where none of them tells,
            it is ``clip``, and ``assumed`` in the provenance says so.
        labels: Names of the classes; by default AudioSet's for 527 classes, else numbered ones.

    Raises:
        CheckpointError: If the file is damaged, would run code, is of another network, or leaves a choice open.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pth or .pt; a checkpoint folder needs no import")
    content = read_torch_file(path)
    weights = _state_dict(content, path)
    sha256 = sha256_of(path)
    told = head or _told_head(weights, path, sha256)
    spec = _infer_spec(weights, path, sample_rate, told)
    network = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
        if name not in FRONT_END_NAMES
    }
    if problem := difference(forms_of(network), expected_forms(spec)):
        raise CheckpointError(f"{path} is not a {spec.name}: {problem}: {_REMEDY}")
    provenance = {
        "source": _source(path, content, sha256),
        "sha256": sha256,
        "recipe": [_training(content)],
        "assumed": [] if told or not _has_decision_twin(spec) else [_ASSUMED_HEAD],
    }
    return Checkpoint(spec, network, _labels(labels, spec.num_classes, path), provenance)


def to_panns(model: Tagger) -> dict[str, dict[str, Tensor]]:
    """Return ``{'model': state dict}`` with the front-end tensors where it has one, as the original code loads it.

    The original classes have fixed widths: a pruned network needs one with these widths, such as E-PANNs' own.
    """
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


def _infer_spec(weights: Mapping[str, Tensor], path: Path, sample_rate: int | None, head: str | None) -> ModelSpec:
    head = _infer_head(weights, path, head)
    classifier = _ATTENTION if head == "decision_att" else "fc_audioset.weight"
    found = sorted((int(match[2]), int(match[3]), match[1]) for match in map(_CONV.fullmatch, weights) if match)
    layers = [layer for _, _, layer in found]
    rows = [row for row in ZOO.values() if list(row.widths) == layers]
    needed = ["bn0.weight", "fc1.weight", classifier, *(f"{layer}.weight" for layer in layers)]
    if not rows or any(name not in weights or weights[name].dim() == 0 for name in needed):
        raise CheckpointError(
            f"{path}: holds {len(weights)} tensors ({shortened(weights)}) of a network that epanns cannot build; "
            f"it reads {', '.join(ZOO)} and pruned versions of them; {_nearest(weights)}: {_REMEDY}"
        )
    size = {name: weights[name].shape[0] for name in needed}
    try:
        front_end = _infer_front_end(weights, path, sample_rate)
        nearest = max(
            rows,
            key=lambda row: (row.head == head, row.front_end == front_end, row.embedding_size == size["fc1.weight"]),
        )
        return replace(
            nearest,
            front_end=front_end,
            widths={layer: size[f"{layer}.weight"] for layer in layers},
            embedding_size=size["fc1.weight"],
            num_classes=size[classifier],
            head=head,
        )
    except ConfigError as error:  # a size of 0, or beyond what a network may have
        raise CheckpointError(f"{path}: {error}") from error


def _nearest(weights: Mapping[str, Tensor]) -> str:
    """Say how the names of tensors differ from those of the nearest row of the zoo; shapes may be any but none."""
    found = forms_of({name: tensor for name, tensor in weights.items() if name not in FRONT_END_NAMES})
    rows = {name: expected_forms(row) for name, row in ZOO.items()}
    name = min(rows, key=lambda name: len(rows[name].keys() ^ found.keys()))
    expected = {
        tensor: found[tensor] if tensor in found and found[tensor].shape else form
        for tensor, form in rows[name].items()
    }
    return f"the nearest is {name}, of which {difference(found, expected)}"


def _infer_head(weights: Mapping[str, Tensor], path: Path, asked: str | None) -> str:
    if asked not in (None, *HEADS):
        raise CheckpointError(f"head={asked}: must be one of {', '.join(HEADS)}")
    attends = _ATTENTION in weights
    if asked is not None and attends != (asked == "decision_att"):
        raise CheckpointError(
            f"{path}: head={asked} contradicts its tensors, which {'have an' if attends else 'have no'} att_block: "
            "leave --head out"
        )
    if attends:
        return "decision_att"
    return asked or "clip"


def _told_head(weights: Mapping[str, Tensor], path: Path, sha256: str) -> str | None:
    """Return the head that tensors, catalogue or file name tell; None where nothing does."""
    if _ATTENTION in weights:
        return "decision_att"
    network = next((file.network for file in released_files() if file.sha256 == sha256), None)
    network = network or next((file.network for file in released_files() if file.name == path.name), None)
    if network is not None and ZOO[network].head != "decision_att":
        return ZOO[network].head
    by_name = {"DecisionLevelMax": "decision_max", "DecisionLevelAvg": "decision_avg"}
    return next((head for part, head in by_name.items() if part in path.name), None)


def _has_decision_twin(spec: ModelSpec) -> bool:
    """Return whether a released network with these layers pools after its classifier, on the same tensors."""
    return any(
        row.head in ("decision_max", "decision_avg") and row.widths.keys() == spec.widths.keys() for row in ZOO.values()
    )


def _infer_front_end(weights: Mapping[str, Tensor], path: Path, sample_rate: int | None) -> FrontEndSpec:
    """Take the sample rate from the STFT's window, and check all three tensors against that front end."""
    rates = ", ".join(map(str, FRONT_ENDS))
    if sample_rate not in (None, *FRONT_ENDS):
        raise CheckpointError(f"sample_rate={sample_rate}: released networks are of {rates} Hz")
    mel_bins = weights["bn0.weight"].shape[0]
    given = {name: weights[name] for name in FRONT_END_NAMES if name in weights}
    if not given:
        if sample_rate is None:
            raise CheckpointError(
                f"{path}: holds no front-end tensors, so its sample rate is unknown: "
                f"import it first: epanns import FILE --out DIR --sample-rate N, with N the one of {rates} that it was "
                "trained at (in Python: epanns.load(path, sample_rate=N))"
            )
        return replace(FRONT_ENDS[sample_rate], mel_bins=mel_bins)
    if len(given) < len(FRONT_END_NAMES):
        raise CheckpointError(f"{path}: of the front end's tensors only {', '.join(given)}: give all three or none")
    kernels = given[FRONT_END_NAMES[0]]
    window = kernels.shape[-1] if kernels.dim() else 0
    preset = next((spec for spec in FRONT_ENDS.values() if spec.window_size == window), None)
    if preset is None:
        windows = ", ".join(f"{spec.window_size} at {rate} Hz" for rate, spec in FRONT_ENDS.items())
        raise CheckpointError(f"{path}: an STFT window of {window} samples is none of PANNs' ({windows})")
    if sample_rate not in (None, preset.sample_rate):
        raise CheckpointError(
            f"{path}: its front end is that of {preset.sample_rate} Hz, not of sample_rate={sample_rate}: "
            "leave --sample-rate out"
        )
    front_end = replace(preset, mel_bins=mel_bins)
    if problem := check_front_end(given, front_end):
        raise CheckpointError(f"{path}: {problem}")
    return front_end


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
