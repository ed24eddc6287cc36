"""Recognise the network of a state dict: its row of the zoo by the names of tensors, its widths by their shapes."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import CheckpointError, ConfigError
from epanns.models.files.tensor_names import prefix_hint
from epanns.models.spec import HEADS, ModelSpec
from epanns.models.tagger import FRONT_END_NAMES, check_front_end
from epanns.models.tensors import TensorForm, difference, expected_forms, forms_of, shortened
from epanns.models.zoo import FRONT_ENDS, ZOO, build_model

REMEDY = "give the state_dict() of a network that `epanns models` lists, with the names of its tensors"

PANNS = tuple(spec for spec in ZOO.values() if not spec.front_end.is_yamnet)  # YAMNet has other files
_RATES = ", ".join(map(str, FRONT_ENDS))
_ATTENTION = "att_block.att.weight"
_ATTENTIVE_HEAD = "decision_att"  # all other heads have the same tensors


@dataclass(frozen=True, eq=False)
class _Layout:
    """Rows of the zoo whose state dicts have the same names.

    Attributes:
        rows: All of them.
        forms: The state dict of the first one.
        classifier: Name of the tensor whose first axis is the classes.
        has_mel_norm: Whether ``bn0`` is over the mel bins.
    """

    rows: tuple[ModelSpec, ...]
    forms: Mapping[str, TensorForm]
    classifier: str
    has_mel_norm: bool

    def can_size(self, found: Mapping[str, TensorForm]) -> bool:
        """Return whether the tensors that determine the widths are present."""
        leads = (f"{layer}.weight" for layer in self.rows[0].widths)
        needed = [*(["bn0.weight"] if self.has_mel_norm else []), "fc1.weight", self.classifier, *leads]
        return all(name in found and found[name].shape for name in needed)

    def sized(self, found: Mapping[str, TensorForm]) -> ModelSpec:
        """Return the first row with the widths of the tensors found; `can_size` must hold."""
        row = self.rows[0]
        mel_bins = found["bn0.weight"].shape[0] if self.has_mel_norm else row.front_end.mel_bins
        return replace(
            row,
            front_end=replace(row.front_end, mel_bins=mel_bins),
            widths={layer: found[f"{layer}.weight"].shape[0] for layer in row.widths},
            embedding_size=found["fc1.weight"].shape[0],
            num_classes=found[self.classifier].shape[0],
        )

    def misfits(self, found: Mapping[str, TensorForm]) -> float:
        """Count the tensors whose shapes contradict the widths; infinite if there is no network of these widths."""
        if not self.can_size(found):
            return math.inf
        try:
            expected = expected_forms(self.sized(found))
        except ConfigError:
            return math.inf
        return sum(found[name].shape != form.shape for name, form in expected.items() if name in found)


@functools.cache
def _layouts() -> tuple[_Layout, ...]:
    rows: dict[object, list[ModelSpec]] = {}
    for row in PANNS:
        rows.setdefault((row.family, tuple(row.widths), row.head == _ATTENTIVE_HEAD), []).append(row)
    layouts = []
    for alike in rows.values():
        with torch.device("meta"):
            network = build_model(alike[0])
        classifier = _ATTENTION if alike[0].head == _ATTENTIVE_HEAD else "fc_audioset.weight"
        layouts.append(_Layout(tuple(alike), forms_of(network.state_dict()), classifier, "bn0" in network.fixed_layers))
    return tuple(layouts)


def has_attention(weights: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is of a network with the attention head."""
    return _ATTENTION in weights


def recognised(
    weights: Mapping[str, Tensor], path: Path, *, sample_rate: int | None = None, head: str | None = None
) -> ModelSpec:
    """Return the architecture of a state dict, dense or pruned.

    Args:
        weights: Tensors by name, including those of the front end if the file holds them.
        path: For messages.
        sample_rate: In Hz; needed for log-mel networks without front-end tensors, which else decide it. Networks on the
            waveform have by default the sample rate of the zoo.
        head: One of `spec.HEADS`, ``clip`` by default; must be ``decision_att`` or None for a network with attention.

    Raises:
        CheckpointError: If no row of the zoo has these names, or sizes or front end are of no network.
    """
    head = _head(weights, path, head)
    found = forms_of({name: tensor for name, tensor in weights.items() if name not in FRONT_END_NAMES})
    # The layout whose names differ least. Wavegram_Cnn14 holds the log-mel's batch norm and first block, unused: only
    # the shapes of the layers that read them distinguish it from Wavegram_Logmel_Cnn14.
    distances = {layout: len(layout.forms.keys() ^ found.keys()) for layout in _layouts()}
    alike = [layout for layout, distance in distances.items() if distance == min(distances.values())]
    layout = alike[0] if len(alike) == 1 else min(alike, key=lambda layout: layout.misfits(found))
    if not layout.can_size(found):
        modules = frozenset(name.split(".")[0] for layout in _layouts() for name in (*layout.forms, *FRONT_END_NAMES))
        hint = f"; {shared}" if (shared := prefix_hint(list(weights), own=modules)) else ""
        # Shapes depend on the widths, so only names are compared.
        names = {
            name: found[name] if name in found and found[name].shape else form for name, form in layout.forms.items()
        }
        raise CheckpointError(
            f"{path}: holds {len(weights)} tensors ({shortened(weights)}) of a network that epanns cannot build; "
            f"it reads {', '.join(row.name for row in PANNS)} and pruned versions of them; "
            f"the nearest is {layout.rows[0].name}, of which {difference(found, names)}{hint}: {REMEDY}"
        )
    try:
        sized = layout.sized(found)
        front_end = _front_end(weights, path, sample_rate, sized)
        nearest = max(
            layout.rows,
            key=lambda row: (row.head == head, row.front_end == front_end, row.embedding_size == sized.embedding_size),
        )
        spec = replace(sized, name=nearest.name, kernel_size=nearest.kernel_size, front_end=front_end, head=head)
        expected_forms(spec)  # refuses widths that are allowed, but not together
    except ConfigError as error:  # a size of 0, or above the largest allowed
        raise CheckpointError(f"{path}: {error}") from error
    return spec


def _head(weights: Mapping[str, Tensor], path: Path, given: str | None) -> str:
    if given not in (None, *HEADS):
        raise CheckpointError(f"head={given}: must be one of {', '.join(HEADS)}")
    if given is not None and has_attention(weights) != (given == _ATTENTIVE_HEAD):
        raise CheckpointError(
            f"{path}: head={given} contradicts its tensors, which "
            f"{'have an' if has_attention(weights) else 'have no'} att_block: leave --head out"
        )
    return _ATTENTIVE_HEAD if has_attention(weights) else given or "clip"


def _front_end(weights: Mapping[str, Tensor], path: Path, sample_rate: int | None, sized: ModelSpec) -> FrontEndSpec:
    """Return the front end that the tensors determine, else that of `sample_rate`."""
    if sample_rate not in (None, *FRONT_ENDS):
        raise CheckpointError(f"sample_rate={sample_rate}: released networks are of {_RATES} Hz")
    mel_bins = sized.front_end.mel_bins
    if not sized.reads_logmel:
        return replace(FRONT_ENDS[sample_rate or sized.front_end.sample_rate], mel_bins=mel_bins)
    given = {name: weights[name] for name in FRONT_END_NAMES if name in weights}
    if given:
        return _front_end_of_tensors(given, path, sample_rate, mel_bins)
    if sample_rate is None:
        raise CheckpointError(
            f"{path}: holds no front-end tensors, so its sample rate is unknown: "
            f"import it first: epanns import FILE --out DIR --sample-rate N, with N the one of {_RATES} that it was "
            "trained at (in Python: epanns.load(path, sample_rate=N))"
        )
    return replace(FRONT_ENDS[sample_rate], mel_bins=mel_bins)


def _front_end_of_tensors(
    given: Mapping[str, Tensor], path: Path, sample_rate: int | None, mel_bins: int
) -> FrontEndSpec:
    """Return the front end with the window size of the STFT tensors, after comparing all three tensors with it."""
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
