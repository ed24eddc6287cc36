"""The base classes of all families: from the waveform to tags, stage by stage.

Released files also hold the tensors of their front end, which are compared with the specification and dropped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from epanns.audio.frontend import FrontEndSpec, LogMel, mel_bank, stft_kernels
from epanns.audio.short_clips import as_float32, repeat_to_minimum
from epanns.audio.specaugment import SpecAugmenter
from epanns.clip_random import dropout
from epanns.errors import CheckpointError, ConfigError
from epanns.labels import LabelSet
from epanns.models.layers.convolution import linear
from epanns.models.layers.mixup import mix_pairs
from epanns.models.layers.pooling import ModelOutput, pool_clip, probabilities_of
from epanns.models.provenance import Provenance
from epanns.models.spec import ModelSpec

# Values between two stages: one tensor ``(batch, channels, ...)``, or several before they are joined.
Features = tuple[Tensor, ...]
Waveform = Tensor | NDArray[Any]
Stage = Callable[[Features], Features]

# Frozen tensors of released files, which a network of epanns does not hold.
FRONT_END_NAMES = (
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
    "logmel_extractor.melW",
)

# Differences by versions of librosa and by rounding to float32; a larger one means another front end.
_TOLERANCE = 1e-4

# Half precision rounds by up to half of this fraction of a number; a file's own rounding is no difference.
_ROUNDING = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


class Tagger(nn.Module, ABC):
    """A network that tags clips: fixed front end, convolutions in stages, pooling over the clip, `fc1`, classifier.

    A family defines its stages (`stages`) and their input (`inputs_of`, `input_shapes`, `begin`); its constructor ends
    with `add_classifier`. Module names are those of released PANNs weights, which load without translation.

    Attributes:
        spec: The architecture; pruning replaces it.
        labels: Names of the classes, in output order.
        provenance: Where the weights come from; kept in checkpoints.
    """

    fc1: nn.Linear
    fc_audioset: nn.Linear

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.labels = labels or LabelSet.numbered(spec.num_classes)
        self.provenance = Provenance()
        # PANNs mask stripes of up to an eighth of the mel bins: 4 of 32, 8 of 64, 16 of 128.
        self.spec_augmenter = SpecAugmenter(mel_width=max(1, spec.front_end.mel_bins // 8))
        self.register_load_state_dict_pre_hook(_check_and_drop_front_end)  # type: ignore[no-untyped-call]

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the prunable layers in forward order; each leads a group of layers with the same channels."""
        return tuple(self.spec.widths)

    @property
    def depthwise_layers(self) -> tuple[str, ...]:
        """Names of the depthwise convolutions, also if only one channel remains."""
        return ()

    @property
    def gate_layers(self) -> tuple[str, ...]:
        """Names of the layers whose outputs multiply channels that other layers compute, one factor per channel."""
        return ()

    @property
    def embedding_layer(self) -> str:
        """Name of the layer that computes the embedding; without effect in families that do not have it."""
        return "fc1"

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are classes."""
        return ("fc_audioset",)

    @property
    def backbone(self) -> list[nn.Parameter]:
        """All parameters except those of the classifier."""
        classifier = self._classifier_tensors()
        return [parameter for name, parameter in self.named_parameters() if name not in classifier]

    @property
    def fixed_layers(self) -> dict[str, str]:
        """Module -> reason, for modules of the family that must keep their width; without head and classifier."""
        return {}

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """Modules that no forward pass uses; they exist because released files hold their weights."""
        return ()

    @property
    def last_reader(self) -> str | None:
        """Name of the only reader of the last group, if the modules behind it cannot be traced."""
        return None

    @property
    @abstractmethod
    def minimum_samples(self) -> int:
        """Length in samples of the shortest clip; shorter clips are repeated to this length."""

    @abstractmethod
    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the output of the fixed front end for ``(batch, samples)``; the front end has no parameters."""

    def in_own_type(self, waveform: Tensor) -> Tensor:
        """Return a waveform in the type of the weights; NumPy arrays are often float64."""
        return waveform.to(next(self.parameters()).dtype)

    @abstractmethod
    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return the shapes of `inputs_of` for one clip."""

    def front_end_frames(self, samples: int) -> int:
        """Return the number of log-mel frames that the front end computes for a clip."""
        return self.spec.front_end.frames(samples)

    @abstractmethod
    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Return the input of the first stage; in training mode after SpecAugment and mixup."""

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Return the functions between `begin` and `pooled`, in forward order.

        A stage is a convolution with its batch norm, ReLU, pooling and dropout, or a residual block; its output is the
        only input of the next stage.
        """

    def pooled(self, features: Features) -> Tensor:
        """Pool the last stage's ``(batch, channels, time, mel)`` to ``(batch, channels)``, the input of `fc1`."""
        (last,) = features
        return pool_clip(last)

    def hidden(self, features: Features) -> Tensor:
        """Return the embedding, ``(batch, embedding_size)``, of the last stage's features."""
        return F.relu(self.fc1(dropout(self.pooled(features), 0.5, self.training)))

    def head(self, features: Features, inputs: Features) -> ModelOutput:
        """Return the scores of the last stage's features; `inputs` are those of `inputs_of`."""
        hidden = self.hidden(features)
        logits = self.fc_audioset(hidden)
        # PANNs apply dropout to the embedding they return, not to the input of the classifier.
        embedding = dropout(hidden, 0.5, self.training)
        scores = probabilities_of(logits, self.spec.activation)
        return ModelOutput(clipwise_logits=logits, clipwise_output=scores, embedding=embedding, hidden=hidden)

    def forward(self, waveform: Waveform, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips.

        Args:
            waveform: ``(batch, samples)`` floating-point tensor or NumPy array in [-1, 1] at
                ``spec.front_end.sample_rate``, of any length >= 1; clips shorter than `minimum_samples` are
                repeated to that length.
            mixup_lambda: ``(batch / 2,)`` in [0, 1]; mixes clip 2i with clip 2i + 1, so that the output has half
                the batch.
        """
        return self.forward_inputs(self.inputs_of(self._whole(waveform)), mixup_lambda)

    def forward_inputs(self, inputs: Features, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips from the output of `inputs_of`; otherwise as `forward`."""
        return self.head(self.through_stages(inputs, mixup_lambda), inputs)

    def through_stages(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Return the output of the last stage for the output of `inputs_of`; otherwise as `forward`."""
        features = self.begin(inputs, mixup_lambda)
        for stage in self.stages():
            features = stage(features)
        return features

    def _whole(self, waveform: Waveform) -> Tensor:
        """Return a waveform as a tensor of at least `minimum_samples`; NumPy arrays on the device of the weights."""
        if isinstance(waveform, np.ndarray):
            device = next(self.parameters()).device
            waveform = torch.from_numpy(as_float32(waveform)).to(device)
        return repeat_to_minimum(waveform, self.minimum_samples)

    def set_task(self, task: str) -> None:
        """Score each class by itself (``multi-label``) or one class out of all (``single-label``).

        Weights stay: only the activation of `clipwise_output` changes.

        Raises:
            ConfigError: If the task is unknown, or the head does not support it.
        """
        self.spec = self.spec.with_task(task)

    def reset_classifier(
        self, num_classes: int, labels: LabelSet | None = None, *, keep: Mapping[int, int] | None = None
    ) -> None:
        """Replace the classifier by one for other classes; all other weights stay.

        Args:
            num_classes: Number of classes.
            labels: Names of the classes; numbered by default.
            keep: Index of a new class -> index of the present class whose weights it keeps, as `labels.same_classes`
                returns it; all other classes start from random weights.

        Raises:
            ConfigError: If there are not `num_classes` labels, or `keep` has an index out of range.
        """
        if labels is not None and len(labels) != num_classes:
            raise ConfigError(f"{len(labels)} labels for num_classes={num_classes}: give one label per class")
        spec = self.spec.with_num_classes(num_classes)  # checks the number before anything changes
        new, old = list(keep or {}), list((keep or {}).values())
        if not set(new) <= set(range(num_classes)) or not set(old) <= set(range(self.spec.num_classes)):
            rule = f"indices below {num_classes} (new classes) -> indices below {self.spec.num_classes} (old classes)"
            raise ConfigError(f"keep={dict(keep or {})}: must be {rule}")
        before = self._classifier_tensors()
        self.add_classifier(spec)
        for name, tensor in self._classifier_tensors().items():
            if tensor.dim():  # all but the counter of a batch norm have the classes as their first axis
                tensor[new] = before[name][old]
        self.spec = spec
        self.labels = labels or LabelSet.numbered(num_classes)

    def _classifier_tensors(self) -> dict[str, Tensor]:
        prefixes = tuple(f"{name}." for name in self.classifier_names)
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(prefixes)}

    def add_classifier(self, spec: ModelSpec) -> None:
        """Add an untrained classifier for the classes of `spec`, on the device and in the mode of the network."""
        device = next(self.parameters()).device
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes).to(device).train(self.training)

    def train(self, mode: bool = True) -> "Tagger":
        """Set the mode; frozen batch norms stay in evaluation mode, or their statistics would drift."""
        super().train(mode)
        for module in self.modules():
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if is_norm and not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
                module.eval()
        return self

    def freeze_backbone(self) -> None:
        """Freeze all parameters except those of the classifier, and the statistics of batch norms."""
        self.requires_grad_(True)
        for parameter in self.backbone:
            parameter.requires_grad_(False)
        self.train(self.training)


class LogMelTagger(Tagger):
    """A tagger that starts from the log-mel spectrogram, normalised bin by bin by `bn0`."""

    # Number of poolings that halve time; set by each family.
    pools: int

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        self.front_end = LogMel(spec.front_end)
        self.bn0 = nn.BatchNorm2d(spec.front_end.mel_bins)

    @property
    def fixed_layers(self) -> dict[str, str]:
        """`bn0`: the front end decides its width."""
        return {"bn0": "it normalises the mel bins of the front end"}

    @property
    def minimum_samples(self) -> int:
        """See `Tagger`. With five poolings at 32 kHz: 32 frames, 9,920 samples, 0.31 s."""
        frames: int = 2**self.pools
        front_end = self.spec.front_end
        reflected = front_end.window_size // 2 + 1  # the front end mirrors half a window at both ends
        return max((frames - 1) * front_end.hop_size, reflected)

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the log-mel, ``(batch, 1, time, mel)`` in dB."""
        return (self.front_end(waveform),)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, 1, time, mel)``."""
        front_end = self.spec.front_end
        return [(1, 1, front_end.frames(samples), front_end.mel_bins)]

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Normalise each mel bin, mask stripes, mix pairs."""
        (logmel,) = inputs
        features = self.bn0(logmel.transpose(1, 3)).transpose(1, 3)
        return (mix_pairs(self.spec_augmenter(features), mixup_lambda),)


def on_first(part: Callable[[Tensor], Tensor], features: Features) -> Features:
    """Apply `part` to the first tensor of `features`; the other tensors are passed on unchanged."""
    first, *others = features
    return (part(first), *others)


def released_front_end(front_end: FrontEndSpec) -> dict[str, Tensor]:
    """Return the three tensors, under their names in released files.

    ``(frequency_bins, 1, window_size)`` twice and ``(frequency_bins, mel_bins)``, float32.
    """
    return dict(zip(FRONT_END_NAMES, (*stft_kernels(front_end), mel_bank(front_end)), strict=True))


def check_front_end(given: Mapping[str, Tensor], front_end: FrontEndSpec) -> str:
    """Return in one line how tensors of a file differ from those of `front_end`; empty if they are equal."""
    expected = released_front_end(front_end)
    for name, tensor in given.items():
        shape = tuple(expected[name].shape)
        comparable = tensor.shape == shape and tensor.is_floating_point()
        difference = (tensor.cpu().float() - expected[name]).abs() if comparable else torch.tensor(float("inf"))
        allowed = _TOLERANCE + _ROUNDING.get(tensor.dtype, 0.0) * expected[name].abs()
        if not (difference <= allowed).all():  # NaN is no front end either
            return (
                f"{name} of shape {tuple(tensor.shape)} is not of the front end at {front_end.sample_rate} Hz (shape "
                f"{shape}; largest difference {float(difference.max()):g}): "
                "build the network with the front end the weights were trained with"
            )
    return ""


def _check_and_drop_front_end(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Check the front-end tensors of a released state dict, and remove them before it is loaded."""
    assert isinstance(module, Tagger)
    if not module.spec.reads_logmel:
        return
    given = {name: state_dict.pop(prefix + name) for name in FRONT_END_NAMES if prefix + name in state_dict}
    if given and (problem := check_front_end(given, module.spec.front_end)):
        raise CheckpointError(f"{module.spec.name}: {problem}")
