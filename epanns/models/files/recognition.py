"""Recognise the network of a state dict: its row of the zoo by the names of tensors, its widths by their shapes."""

import functools
import math
import re
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

TORCH_FILES = tuple(spec for spec in ZOO.values() if not spec.front_end.is_yamnet)  # YAMNet has other files
_RATES = ", ".join(map(str, FRONT_ENDS))
_HOP, _MEL_BINS = re.compile(r"_hop_(\d+)_"), re.compile(r"_mels_(\d+)_")  # in the names of EfficientAT's files
_ATTENTION = "att_block.att.weight"


@dataclass(frozen=True, eq=False)
class _Layout:
    """Rows of the zoo whose state dicts have the same names.

    Attributes:
        rows: All of them.
        forms: The state dict of the first one.
        embedding: Name of the tensor whose first axis is the embedding.
        classifier: Name of the tensor whose first axis is the classes.
        has_mel_norm: Whether ``bn0`` is over the mel bins.
    """

    rows: tuple[ModelSpec, ...]
    forms: Mapping[str, TensorForm]
    embedding: str
    classifier: str
    has_mel_norm: bool

    def can_size(self, found: Mapping[str, TensorForm]) -> bool:
        """Return whether the tensors that determine the widths are present."""
        leads = (f"{layer}.weight" for layer in self.rows[0].widths)
        needed = [*(["bn0.weight"] if self.has_mel_norm else []), self.embedding, self.classifier, *leads]
        return all(name in found and found[name].shape for name in needed)

    def sized(self, found: Mapping[str, TensorForm]) -> ModelSpec:
        """Return the first row with the widths of the tensors found; `can_size` must hold."""
        row = self.rows[0]
        mel_bins = found["bn0.weight"].shape[0] if self.has_mel_norm else row.front_end.mel_bins
        return replace(
            row,
            front_end=replace(row.front_end, mel_bins=mel_bins),
            widths={layer: found[f"{layer}.weight"].shape[0] for layer in row.widths},
            embedding_size=found[self.embedding].shape[0],
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
    for row in TORCH_FILES:
        rows.setdefault((row.family, tuple(row.widths), has_own_tensors(row.head)), []).append(row)
    layouts = []
    for alike in rows.values():
        with torch.device("meta"):
            network = build_model(alike[0])
        embedding, classifier = (f"{name}.weight" for name in (network.embedding_layer, network.classifier_names[0]))
        has_mel_norm = "bn0" in network.fixed_layers
        layouts.append(_Layout(tuple(alike), forms_of(network.state_dict()), embedding, classifier, has_mel_norm))
    return tuple(layouts)


def has_own_tensors(head: str) -> bool:
    """Return whether a head has tensors of its own (attention); all other heads have the same tensors."""
    return head == "decision_att"


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
            f"it reads {', '.join(row.name for row in TORCH_FILES)} and pruned versions of them; "
            f"the nearest is {layout.rows[0].name}, of which {difference(found, names)}{hint}: {REMEDY}"
        )
    try:
        sized = layout.sized(found)
        front_end = _front_end(weights, path, sample_rate, sized)
        nearest = max(
            layout.rows,
            key=lambda row: (row.head == head, row.front_end == front_end, row.embedding_size == sized.embedding_size),
        )
        return replace(sized, name=nearest.name, kernel_size=nearest.kernel_size, front_end=front_end, head=head)
    except ConfigError as error:  # a size of 0, or above the largest allowed
        raise CheckpointError(f"{path}: {error}") from error


def with_counters(spec: ModelSpec, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the missing counters of batches, ``num_batches_tracked``, set to 1.

    Files of torch before 0.4.1, and of code that filters state dicts, have no counters.
    """
    try:
        expected = expected_forms(spec)
    except ConfigError:  # `mismatch` reports it
        return dict(network)
    counters = [name for name in expected if name.endswith(".num_batches_tracked") and name not in network]
    return {**network, **{name: torch.tensor(1) for name in counters}}


def mismatch(spec: ModelSpec, network: Mapping[str, Tensor]) -> str:
    """Return the difference between a state dict and that of a specification in one line; empty if there is none."""
    try:
        return difference(forms_of(network), expected_forms(spec))
    except ConfigError as error:  # widths that are allowed, but not together
        return str(error)


def _head(weights: Mapping[str, Tensor], path: Path, given: str | None) -> str:
    if given not in (None, *HEADS):
        raise CheckpointError(f"head={given}: must be one of {', '.join(HEADS)}")
    if given is not None and has_attention(weights) != has_own_tensors(given):
        raise CheckpointError(
            f"{path}: head={given} contradicts its tensors, which "
            f"{'have an' if has_attention(weights) else 'have no'} att_block: leave --head out"
        )
    return "decision_att" if has_attention(weights) else given or "clip"


def _front_end(weights: Mapping[str, Tensor], path: Path, sample_rate: int | None, sized: ModelSpec) -> FrontEndSpec:
    """Return the front end that the tensors determine, else that of `sample_rate`, or of EfficientAT."""
    if sized.front_end.kind == "efficientat":
        if sample_rate not in (None, sized.front_end.sample_rate):
            rate = sized.front_end.sample_rate
            raise CheckpointError(f"{path}: sample_rate={sample_rate}: {sized.name} has {rate}: leave it out")
        return _efficientat_front_end(path, sized.front_end)
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


def _efficientat_front_end(path: Path, front_end: FrontEndSpec) -> FrontEndSpec:
    """Return the front end that the name of a file states: hop in milliseconds, number of mel bins."""
    hop, mel_bins = _HOP.search(path.name), _MEL_BINS.search(path.name)
    hop_size = front_end.hop_size if hop is None else int(hop[1]) * front_end.sample_rate // 1000
    return replace(front_end, hop_size=hop_size, mel_bins=int(mel_bins[1]) if mel_bins else front_end.mel_bins)


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
