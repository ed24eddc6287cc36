"""Released files of PANNs, E-PANNs and EfficientAT: recognised, read, and written for the code of PANNs.

The modules of epanns have the names of the tensors in these files, so that state dicts load without translation. These
names are a public format: never rename them.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from epanns.atomic import refuse_existing, replacing, sha256_of
from epanns.audio.frontend import FrontEndSpec
from epanns.errors import CheckpointError, ConfigError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import Checkpoint, checkpoint_folder, labels_for
from epanns.models.files.download import ReleasedFile, known_file
from epanns.models.files.tensor_names import StateDict, prefix_hint, unwrapped
from epanns.models.files.torch_file import UNVERIFIED, read_torch_file
from epanns.models.files.yamnet_file import is_yamnet_file, read_yamnet
from epanns.models.provenance import Operation, Provenance
from epanns.models.spec import HEADS, ModelSpec
from epanns.models.tagger import FRONT_END_NAMES, Tagger, check_front_end, released_front_end
from epanns.models.tensors import TensorForm, difference, expected_forms, forms_of, shortened
from epanns.models.zoo import FRONT_ENDS, ZOO, build_model
from epanns.safe_text import printable

REMEDY = "give the state_dict() of a network that `epanns models` lists, with the names of its tensors"

TORCH_FILES = tuple(spec for spec in ZOO.values() if not spec.front_end.is_yamnet)  # YAMNet has other files
_RATES = ", ".join(map(str, FRONT_ENDS))
_ATTENTION = "att_block.att.weight"
_HOP, _MEL_BINS = re.compile(r"_hop_(\d+)_"), re.compile(r"_mels_(\d+)_")  # in the names of EfficientAT's files
_ATTENTIVE_HEAD = "decision_att"  # all other heads have the same tensors


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
        rows.setdefault((row.family, tuple(row.widths), row.head == _ATTENTIVE_HEAD), []).append(row)
    layouts = []
    for alike in rows.values():
        with torch.device("meta"):
            network = build_model(alike[0])
        embedding, classifier = (f"{name}.weight" for name in (network.embedding_layer, network.classifier_names[0]))
        has_mel_norm = "bn0" in network.fixed_layers
        layouts.append(_Layout(tuple(alike), forms_of(network.state_dict()), embedding, classifier, has_mel_norm))
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
    """Return the front end that the tensors determine, else that of `sample_rate`, or of EfficientAT."""
    if (own := sized.front_end).kind == "efficientat":
        if sample_rate not in (None, own.sample_rate):
            raise CheckpointError(
                f"{path}: sample_rate={sample_rate}: {sized.name} has {own.sample_rate}: leave it out"
            )
        hop, bins = _HOP.search(path.name), _MEL_BINS.search(path.name)
        hop_size = int(hop[1]) * own.sample_rate // 1000 if hop else own.hop_size
        return replace(own, hop_size=hop_size, mel_bins=int(bins[1]) if bins else own.mel_bins)
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
    "a hop of {:g} ms and {} mel bins are assumed: EfficientAT's files hold no front end, and only names with _hop_ or "
    "_mels_ state another one"
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
        raise CheckpointError(
            f"{path}: no such file; give a .pth or .pt; a checkpoint folder needs no import, except to store it as "
            "float16"
        )
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
    expected = expected_forms(spec)
    # Files of torch before 0.4.1, and of code that filters state dicts, have no counters of batches.
    counters = [name for name in expected if name.endswith(".num_batches_tracked") and name not in network]
    whole = network | {name: torch.tensor(1) for name in counters}
    # Compared as loaded: tensors of all floating-point types become float32.
    loaded = {
        name: each.to("meta", torch.float32 if each.is_floating_point() else None) for name, each in whole.items()
    }
    if problem := difference(forms_of(loaded), expected):
        removed = f"; all names begin with {shortened([state.prefix + '.'])}, which was removed" if state.prefix else ""
        raise CheckpointError(f"{path} is not a {spec.name}: {problem}{removed}: {REMEDY}")
    has_alternatives = any(
        row.head in _HEADS_BY_NAME.values() and row.widths.keys() == spec.widths.keys() for row in ZOO.values()
    )
    hop = 1000 * spec.front_end.hop_size / spec.front_end.sample_rate
    is_efficientat = spec.front_end.kind == "efficientat"
    assumed = {
        UNVERIFIED: not (file.has_checksums or known),
        _HEAD_BY_NAME.format(by_name): by_name is not None,
        _ASSUMED_HEAD: (known_head or by_name) is None and has_alternatives,
        _ASSUMED_FRONT_END.format(hop, spec.front_end.mel_bins): is_efficientat and known is None,
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
    if counters:
        notes.append(f"{len(counters)} counters of batches (num_batches_tracked) are missing and start at 1")
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


def _source(path: Path, iteration: int | None, state: StateDict, known: ReleasedFile | None) -> str:
    details = [] if iteration is None else [f"iteration {iteration}"]
    details += [f"tensors of {'.'.join(state.keys)}"] if state.keys not in ((), ("model",), ("state_dict",)) else []
    details += [f"names without {shortened([state.prefix + '.'])}"] if state.prefix else []
    return ", ".join(
        [printable(path.name), *details, f"the released file {known.url}" if known else "not a known released file"]
    )
