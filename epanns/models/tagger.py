"""What all families share: from the waveform to tags, stage by stage."""

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
from epanns.models.convolution import linear
from epanns.models.pooling import ModelOutput, pool_clip, probabilities_of
from epanns.models.provenance import Provenance
from epanns.models.spec import ModelSpec

FRONT_END_NAMES = (
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
    "logmel_extractor.melW",
)

# torchlibrosa's tensors, its librosa of that day, and float32: larger differences mean another front end.
_TOLERANCE = 1e-4

# Half precision rounds by up to half of this fraction of a number; a file's own rounding is no difference.
_ROUNDING = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def released_front_end(front_end: FrontEndSpec) -> dict[str, Tensor]:
    """Return the three tensors, under their names in released files.

    ``(frequency_bins, 1, window_size)`` twice and ``(frequency_bins, mel_bins)``, float32.
    """
    return dict(zip(FRONT_END_NAMES, (*stft_kernels(front_end), mel_bank(front_end)), strict=True))


def check_front_end(given: Mapping[str, Tensor], front_end: FrontEndSpec) -> str:
    """Say how tensors of a file differ from those of `front_end`; empty where they do not."""
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


# What passes between the steps of a network: one tensor ``(batch, channels, ...)``, or several before they are joined.
Features = tuple[Tensor, ...]
Waveform = Tensor | NDArray[Any]
Stage = Callable[[Features], Features]


class Tagger(nn.Module, ABC):
    """A network that tags clips: fixed front end, convolutions in stages, pooling over the clip, `fc1`, classifier.

    A family says what its stages are (`stages`) and what they start from (`inputs_of`, `input_shapes`, `begin`).
    Module names are those of released PANNs weights, which therefore load as they are.

    Attributes:
        spec: What was built; pruning replaces it.
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
        """Names of the layers with a width of their own, in forward order; the leads of the groups that are pruned."""
        return tuple(self.spec.widths)

    @property
    def depthwise_layers(self) -> tuple[str, ...]:
        """Names of the convolutions that filter each channel by itself, also where only one channel is left."""
        return ()

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are classes."""
        return ("fc_audioset",)

    @property
    def backbone(self) -> list[nn.Parameter]:
        """The parameters of all modules but the classifier's."""
        classifier = self._classifier_tensors()
        return [parameter for name, parameter in self.named_parameters() if name not in classifier]

    @property
    def fixed_layers(self) -> dict[str, str]:
        """Modules of the family that must keep their width, with the reason; head and classifier apart."""
        return {}

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """Modules that no forward pass reaches: released files hold them, so they are held."""
        return ()

    @property
    def last_reader(self) -> str | None:
        """Name of the layer that alone reads the last group, where what follows it is too much for a tracer."""
        return None

    @property
    @abstractmethod
    def minimum_samples(self) -> int:
        """Shortest clip the network takes as it is; shorter ones are repeated from their start to this length."""

    @abstractmethod
    def inputs_of(self, waveform: Tensor) -> Features:
        """Return what the fixed front end makes of ``(batch, samples)``; nothing in it can be learned or pruned."""

    def in_own_type(self, waveform: Tensor) -> Tensor:
        """Return a waveform in the type of the weights, for layers that read it; NumPy's arrays are often float64."""
        return waveform.to(next(self.parameters()).dtype)

    @abstractmethod
    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return the shapes of `inputs_of` for one clip."""

    def front_end_frames(self, samples: int) -> int:
        """Return how many frames of log-mel the front end computes for a clip."""
        return self.spec.front_end.frames(samples)

    @abstractmethod
    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Return what the first stage reads; while learning, after SpecAugment and mixup."""

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Return what the network does between `begin` and `pooled`, in forward order.

        A stage is a convolution with its batch norm, ReLU, pooling and dropout, or a block around which values pass;
        nothing but what it returns goes on to the next one.
        """

    def pooled(self, features: Features) -> Tensor:
        """Return what `fc1` reads, ``(batch, channels)``, of the last stage's ``(batch, channels, time, mel)``."""
        (last,) = features
        return pool_clip(last)

    def hidden(self, features: Features) -> Tensor:
        """Return the embedding, ``(batch, embedding_size)``, of the last stage's features."""
        return F.relu(self.fc1(dropout(self.pooled(features), 0.5, self.training)))

    def head(self, features: Features, inputs: Features) -> ModelOutput:
        """Return the scores of the last stage's features; `inputs` are those of `inputs_of`."""
        hidden = self.hidden(features)
        logits = self.fc_audioset(hidden)
        # PANNs drop out the embedding they return, not the one the classifier reads.
        embedding = dropout(hidden, 0.5, self.training)
        scores = probabilities_of(logits, self.spec.activation)
        return ModelOutput(clipwise_logits=logits, clipwise_output=scores, embedding=embedding, hidden=hidden)

    def forward(self, waveform: Waveform, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips.

        Args:
            waveform: ``(batch, samples)`` floating-point tensor or NumPy array in [-1, 1] at
                ``spec.front_end.sample_rate``, of any length >= 1; clips shorter than `minimum_samples` are
                repeated to that length.
            mixup_lambda: ``(batch / 2,)`` in [0, 1]; mixes clip 2i with clip 2i + 1 where the family mixes, so that
                the output has half the batch.
        """
        return self.forward_inputs(self.inputs_of(self._whole(waveform)), mixup_lambda)

    def forward_inputs(self, inputs: Features, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips from what `inputs_of` gives; the rest as in `forward`."""
        return self.head(self.through_stages(inputs, mixup_lambda), inputs)

    def through_stages(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Return the last stage's features of what `inputs_of` gives; the rest as in `forward`."""
        features = self.begin(inputs, mixup_lambda)
        for stage in self.stages():
            features = stage(features)
        return features

    def features_of(self, waveform: Waveform) -> Features:
        """Return what the first stage reads; `waveform` as in `forward`."""
        return self.begin(self.inputs_of(self._whole(waveform)))

    def _whole(self, waveform: Waveform) -> Tensor:
        """Return a waveform as a tensor that is long enough; an array of NumPy goes to the device of the weights."""
        if isinstance(waveform, np.ndarray):
            device = next(self.parameters()).device
            waveform = torch.from_numpy(as_float32(waveform)).to(device)
        return repeat_to_minimum(waveform, self.minimum_samples)

    def set_task(self, task: str) -> None:
        """Let scores be of each class by itself (``multi-label``) or of one class out of all (``single-label``).

        Weights stay: only what `clipwise_output` makes of the logits changes.

        Raises:
            ConfigError: If the task is neither, or the head cannot do it.
        """
        self.spec = self.spec.with_task(task)

    def reset_classifier(
        self, num_classes: int, labels: LabelSet | None = None, *, keep: Mapping[int, int] | None = None
    ) -> None:
        """Replace the classifier by one for other classes; all other weights stay.

        Args:
            num_classes: How many there are.
            labels: Their names; numbered ones by default.
            keep: Index of a new class -> index of the class whose weights it goes on with, as `labels.same_classes`
                gives it; all others start from random weights.

        Raises:
            ConfigError: If `labels` are not `num_classes` long, or `keep` names a class that there is not.
        """
        if labels is not None and len(labels) != num_classes:
            raise ConfigError(f"{len(labels)} labels for num_classes={num_classes}: give one label per class")
        spec = self.spec.with_num_classes(num_classes)  # refuses what is no number of classes before anything changes
        new, old = list(keep or {}), list((keep or {}).values())
        if not set(new) <= set(range(num_classes)) or not set(old) <= set(range(self.spec.num_classes)):
            rule = f"indices below {num_classes} (new classes) -> indices below {self.spec.num_classes} (known ones)"
            raise ConfigError(f"keep={dict(keep or {})}: must be {rule}")
        before = self._classifier_tensors()
        self._new_classifier(spec)
        for name, tensor in self._classifier_tensors().items():
            if tensor.dim():  # all but the counter of a batch norm have the classes as their first axis
                tensor[new] = before[name][old]
        self.spec = spec
        self.labels = labels or LabelSet.numbered(num_classes)

    def _classifier_tensors(self) -> dict[str, Tensor]:
        prefixes = tuple(f"{name}." for name in self.classifier_names)
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(prefixes)}

    def _new_classifier(self, spec: ModelSpec) -> None:
        device = next(self.parameters()).device
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes).to(device).train(self.training)

    def train(self, mode: bool = True) -> "Tagger":
        """Set the mode; batch norms that may not learn stay in evaluation mode, or their statistics would drift."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not _learns(module):
                module.eval()
        return self

    def freeze_backbone(self) -> None:
        """Stop every parameter but the classifier's from learning, and fix the batch norms' statistics."""
        self.requires_grad_(True)
        for parameter in self.backbone:
            parameter.requires_grad_(False)
        self.train(self.training)


class LogMelTagger(Tagger):
    """A tagger that starts from the log-mel spectrogram, normalised bin by bin by `bn0`."""

    # How often time is halved on the way; every family sets its own.
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


def mix_pairs(features: Tensor, mixup_lambda: Tensor | None) -> Tensor:
    """Mix clip 2i with clip 2i + 1 of ``(batch, ...)``, the first one weighted by ``mixup_lambda (batch / 2,)``.

    Raises:
        ConfigError: If there is not one weight for each pair.
    """
    if mixup_lambda is None:
        return features
    if mixup_lambda.shape != (len(features) / 2,):
        raise ConfigError(
            f"mixup_lambda of shape {tuple(mixup_lambda.shape)} for {len(features)} clips: give one per pair"
        )
    weight = mixup_lambda.to(features).reshape(-1, *[1] * (features.dim() - 1))
    return features[0::2] * weight + features[1::2] * (1 - weight)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _check_and_drop_front_end(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Let released state dicts load as they are: their front-end tensors are checked against ours and left out."""
    assert isinstance(module, Tagger)
    if not module.spec.reads_logmel:
        return
    given = {name: state_dict.pop(prefix + name) for name in FRONT_END_NAMES if prefix + name in state_dict}
    if given and (problem := check_front_end(given, module.spec.front_end)):
        raise CheckpointError(f"{module.spec.name}: {problem}")
