"""LEAN: YAMNet's body joined to a recurrent encoder of the waveform by attention."""

import torch
from torch import Tensor, nn

from epanns.audio.frontend import PATCH_FRAMES
from epanns.errors import ConfigError
from epanns.labels import LabelSet
from epanns.models.families.yamnet import BODY, Yamnet, YamnetBody
from epanns.models.layers.convolution import linear
from epanns.models.layers.mixup import mix_pairs
from epanns.models.spec import FUSION_FAMILIES, WITHOUT_FC1, ModelSpec
from epanns.models.tagger import Features, Tagger


class BiLSTM(nn.LSTM):
    """A bidirectional LSTM with one bias per gate, as in Keras; torch adds two biases.

    The second bias is a constant 0. Weights are initialised as in Keras: Xavier uniform for inputs, orthogonal for
    states; biases are 0, those of the forget gates 1.

    Args of the constructor:
        in_features: Size of an input vector.
        hidden: Size of the state of each direction; the two states are concatenated.
    """

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__(in_features, hidden, batch_first=True, bidirectional=True)
        for suffix in ("l0", "l0_reverse"):
            second = f"bias_hh_{suffix}"
            delattr(self, second)
            self.register_buffer(second, torch.zeros(4 * hidden), persistent=False)
            nn.init.xavier_uniform_(self.get_parameter(f"weight_ih_{suffix}"))
            for gate in self.get_parameter(f"weight_hh_{suffix}").chunk(4):
                nn.init.orthogonal_(gate)
            with torch.no_grad():
                bias = self.get_parameter(f"bias_ih_{suffix}").zero_()
                bias[hidden : 2 * hidden] = 1  # torch's order of gates: input, forget, cell, output
        self._init_flat_weights()

    def forward(self, steps: Tensor) -> Tensor:  # type: ignore[override]  # the states alone
        """Map ``(batch, steps, in_features)`` to the states ``(batch, steps, 2 * hidden)``."""
        # oneDNN has no LSTM in bfloat16 for processors without AVX-512, where autocast would end in its error.
        if steps.is_cpu and torch.is_autocast_enabled("cpu") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            with torch.autocast("cpu", enabled=False):
                states: Tensor = nn.LSTM.forward(self, steps.float())[0]
        else:
            states = nn.LSTM.forward(self, steps)[0]
        return states


class WaveEncoder(nn.Module):
    """Two bidirectional LSTMs on consecutive pieces of the waveform.

    Args of the constructor:
        piece: Samples of a piece, the input vector of a time step.
        hidden: Size of the state of each direction of each LSTM.
    """

    def __init__(self, piece: int, hidden: int) -> None:
        super().__init__()
        self.lstm1 = BiLSTM(piece, hidden)
        self.lstm2 = BiLSTM(2 * hidden, hidden)

    def forward(self, pieces: Tensor) -> Tensor:
        """Map ``(batch, pieces, samples)`` to the states ``(batch, pieces, 2 * hidden)``."""
        states: Tensor = self.lstm2(self.lstm1(pieces))
        return states


class DotProducts(nn.Module):
    """The dot product of each state ``(batch, steps, size)`` with a vector ``(batch, size)``: ``(batch, steps)``."""

    def forward(self, states: Tensor, vector: Tensor) -> Tensor:
        """Return one number per state."""
        return torch.bmm(states, vector[:, :, None])[:, :, 0]


class WeightedSum(nn.Module):
    """The sum of the states ``(batch, steps, size)`` weighted by ``(batch, steps)``: ``(batch, size)``."""

    def forward(self, states: Tensor, weights: Tensor) -> Tensor:
        """Return one vector per clip."""
        return torch.bmm(weights[:, None], states)[:, 0]


class LastStates(nn.Module):
    """Context without attention: the final state of each direction, of the last and of the first time step.

    The paper does not specify which vector of the encoder is concatenated; a recurrent layer of Keras returns this one
    by default.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = size // 2

    def forward(self, scene: Tensor, states: Tensor) -> Tensor:
        """Return ``(batch, size)`` of ``states (batch, steps, size)``."""
        return torch.cat([states[:, -1, : self.hidden], states[:, 0, self.hidden :]], dim=1)


class Affinity(nn.Module):
    """Attention without parameters: the weight of a state depends on its dot product with the scene's embedding.

    The scores are between -1 and 1, so the weights of 40 states are between 0.0035 and 0.159.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.affinity = DotProducts()
        self.sum = WeightedSum()

    def forward(self, scene: Tensor, states: Tensor) -> Tensor:
        """Return ``(batch, size)`` of ``scene (batch, size)`` and ``states (batch, steps, size)``."""
        weights = self.affinity(states, scene).tanh().softmax(dim=1)
        context: Tensor = self.sum(states, weights)
        return context


class AdditiveAttention(nn.Module):
    """Additive attention (Bahdanau et al. 2015): the scene's embedding is the query, the states are keys and values.

    The parameter counts of the paper imply a score of size 1, not the 128 that its text states for Q, K and V. They do
    not determine whether query, key and score have biases; here they have.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = linear(size, size // 2)
        self.key = linear(size, size // 2)
        self.score = linear(size // 2, 1)
        self.sum = WeightedSum()

    def forward(self, scene: Tensor, states: Tensor) -> Tensor:
        """Return ``(batch, size)`` of ``scene (batch, size)`` and ``states (batch, steps, size)``."""
        scores = self.score((self.query(scene)[:, None] + self.key(states)).tanh())  # (batch, steps, 1)
        context: Tensor = self.sum(states, scores[:, :, 0].softmax(dim=1))
        return context


# Family -> module that reduces the states of the wave encoder to one vector.
FUSIONS: dict[str, type[nn.Module]] = {
    "lean_concat": LastStates,
    "lean_affinity": Affinity,
    "lean": AdditiveAttention,
}


class Lean(YamnetBody):
    """LEAN, its variants with other or without attention, and YAMNet with another classifier.

    A clip is split into windows of 1 s that overlap by half, the last one shifted back to end with the clip, as in the
    paper; the clip's probabilities are the means over its windows. A clip under 1 s is repeated. YAMNet reads the first
    96 frames of a window, the wave encoder the whole window in pieces of 25 ms.

    `fc1`, the projection of the paper, is linear: the paper states no activation. SpecAugment masks only the log-mel;
    mixup mixes waveforms and log-mels of a pair with the same weight.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        joins = spec.family in FUSION_FAMILIES
        size = spec.embedding_size // 2 if joins else spec.embedding_size
        if spec.family not in WITHOUT_FC1:
            self.fc1 = linear(list(spec.widths.values())[-1], size)
        if joins:
            self.encoder = WaveEncoder(spec.front_end.window_size, size // 2)
            self.attention = FUSIONS[spec.family](size)
        self.add_classifier(spec)

    @property
    def fixed_layers(self) -> dict[str, str]:
        """Wave encoder and attention: the operands of a dot product or a sum have one width."""
        reasons = {
            "encoder": "the LSTMs of the wave encoder are recurrent: epanns prunes convolutions",
            "attention": "it joins the wave encoder's states to the projection, whose widths are the same",
        }
        return {
            name: reason
            for part, reason in reasons.items()
            for name, module in self.named_modules()
            if name.startswith(f"{part}.") and next(module.parameters(recurse=False), None) is not None
        }

    @property
    def last_reader(self) -> str | None:
        """The projection: Torch-Pruning cannot trace channels through the attention."""
        return "fc1" if self._joins else None

    @property
    def minimum_samples(self) -> int:
        """See `Tagger`: 1 s."""
        return self.spec.front_end.sample_rate

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the log-mel of each window, ``(batch, windows, 96, mel)``, and its waveform in pieces.

        The pieces are ``(batch, windows, pieces, samples)``; they are left out without wave encoder.
        """
        front_end = self.spec.front_end
        starts = _window_starts(waveform.shape[1], front_end.sample_rate)
        windows = torch.stack([waveform[:, start : start + front_end.sample_rate] for start in starts], dim=1)
        logmel = self.front_end(windows[..., : front_end.patch_samples])
        pieces = windows.reshape(*windows.shape[:2], -1, front_end.window_size)
        return logmel, *([self.in_own_type(pieces)] if self._joins else [])

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, windows, 96, mel)`` and, with a wave encoder, ``(1, windows, pieces, samples)``."""
        front_end = self.spec.front_end
        windows = len(_window_starts(samples, front_end.sample_rate))
        pieces = (1, windows, front_end.sample_rate // front_end.window_size, front_end.window_size)
        return [(1, windows, PATCH_FRAMES, front_end.mel_bins), *([pieces] if self._joins else [])]

    def front_end_frames(self, samples: int) -> int:
        """See `Tagger`: 96 for each window."""
        return PATCH_FRAMES * len(_window_starts(samples, self.spec.front_end.sample_rate))

    def count_segments(self, inputs: Features) -> int:
        """Return the number of windows of each clip."""
        return inputs[0].shape[1]

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Mask stripes, mix pairs and flatten the windows, ``(batch * windows, ...)``."""
        logmel, *pieces = inputs
        mixed = mix_pairs(self.masked(logmel), mixup_lambda).flatten(0, 1)[:, None]
        return mixed, *(mix_pairs(piece, mixup_lambda).flatten(0, 1) for piece in pieces)

    def hidden(self, features: Features) -> Tensor:
        """Return the input of the classifier: the scene's embedding, concatenated with the context of the waveform."""
        scene = self.pooled(features)
        if self.spec.family not in WITHOUT_FC1:
            scene = self.fc1(scene)
        if not self._joins:
            return scene
        states = self.encoder(features[1])
        return torch.cat([scene, self.attention(scene, states)], dim=1)

    @property
    def _joins(self) -> bool:
        return self.spec.family in FUSION_FAMILIES

    def take_yamnet(self, yamnet: Tagger) -> None:
        """Copy the weights of the body of `yamnet`.

        Raises:
            ConfigError: If `yamnet` is not a YAMNet of the same widths and front end.
        """
        spec = yamnet.spec
        if not isinstance(yamnet, Yamnet) or (spec.widths, spec.front_end) != (self.spec.widths, self.spec.front_end):
            raise ConfigError(
                f"{spec.name} cannot be the body of this {self.spec.name}: give a YAMNet of its widths and front end"
            )
        body = {name: tensor for name, tensor in yamnet.state_dict().items() if name.startswith(BODY)}
        self.load_state_dict(self.state_dict() | body)


def _window_starts(samples: int, sample_rate: int) -> list[int]:
    """Return the first sample of each window: every half second, and a last window that ends with the clip."""
    starts = list(range(0, max(1, samples - sample_rate + 1), sample_rate // 2))
    if starts[-1] + sample_rate < samples:
        starts.append(samples - sample_rate)
    return starts
