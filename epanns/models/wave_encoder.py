"""LEAN's wave encoder: short pieces of the waveform through two bidirectional LSTMs."""

import torch
from torch import Tensor, nn


class BiLSTM(nn.LSTM):
    """A bidirectional LSTM with one bias per gate, as Keras has it; torch adds up two.

    The second bias is 0 for good and no parameter, which leaves the function as it is. Initialised as in Keras: Xavier
    uniform and orthogonal weights, biases 0 but for the forget gates', which are 1.

    Args of the constructor:
        in_features: Numbers of a step that come in.
        hidden: Numbers of each direction that go out; both stand side by side.
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
        states: Tensor = nn.LSTM.forward(self, steps)[0]
        return states


class WaveEncoder(nn.Module):
    """Two bidirectional LSTMs on pieces of the waveform that follow each other.

    Args of the constructor:
        piece: Samples of a piece, which are the numbers of a step.
        hidden: Numbers of each direction of each LSTM.
    """

    def __init__(self, piece: int, hidden: int) -> None:
        super().__init__()
        self.lstm1 = BiLSTM(piece, hidden)
        self.lstm2 = BiLSTM(2 * hidden, hidden)

    def forward(self, pieces: Tensor) -> Tensor:
        """Map ``(batch, pieces, samples)`` to the states ``(batch, pieces, 2 * hidden)``."""
        states: Tensor = self.lstm2(self.lstm1(pieces))
        return states
