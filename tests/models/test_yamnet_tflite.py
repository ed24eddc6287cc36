"""YAMNet with Google's weights against a TFLite conversion of them, on real sound.

The conversion has int8 kernels and an int8 mel matrix, and our weights were rebuilt from two such conversions: closer
than two int8 conversions agree, they cannot. Over all 400 clips of ESC-10, 4,005 windows: scores differ by .97 at most
and .00104 on average, top-1 is the same on 85.1 % of the windows and 90.5 % of the clips; on the conversion's own
log-mel by .46 and .00063, the same on 89.9 % and 93.5 %. Its log-mel differs from the exact one by .094 on average and
7.2 at most.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from epanns.audio.waveform import load_waveform
from epanns.evaluation.protocol import cut_windows
from epanns.models.files.load import load
from epanns.models.tagger import Tagger

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason='pip install "epanns-pruning[tflite]"')

Scores = list[NDArray[np.float32]]  # a clip's ``(windows, classes)``


class Converted:
    """The TFLite network: 15,600 samples to scores and log-mel."""

    def __init__(self, path: Path) -> None:
        self.network = interpreter.Interpreter(str(path), num_threads=1)
        self.network.allocate_tensors()
        self.input = self.network.get_input_details()[0]["index"]
        by_shape = {tuple(item["shape"]): item["index"] for item in self.network.get_output_details()}
        self.scores, self.logmel = by_shape[(1, 521)], by_shape[(96, 64)]

    def __call__(self, windows: torch.Tensor) -> tuple[NDArray[np.float32], torch.Tensor]:
        scores, logmels = [], []
        for window in windows:
            self.network.set_tensor(self.input, window[None].numpy())
            self.network.invoke()
            scores.append(self.network.get_tensor(self.scores)[0].copy())
            logmels.append(torch.from_numpy(self.network.get_tensor(self.logmel).copy()))
        return np.stack(scores), torch.stack(logmels)[:, None]


def agreement(one: Scores, other: Scores) -> tuple[float, float, float]:
    """Return the mean difference of scores, and the shares of windows and of clips with the same highest class."""
    windows, others = np.concatenate(one), np.concatenate(other)
    of_clips = [a.mean(0).argmax() == b.mean(0).argmax() for a, b in zip(one, other, strict=True)]
    same = windows.argmax(1) == others.argmax(1)
    return float(np.abs(windows - others).mean()), float(same.mean()), float(np.mean(of_clips))


def scores_of(model: Tagger, logmel: torch.Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return model.forward_inputs((logmel,))["clipwise_output"].numpy()


@pytest.mark.slow
def test_scores_differ_from_the_conversion_no_more_than_two_conversions_do(shared: Path) -> None:
    converted = Converted(shared / "weights" / "jaskaran_yamnet.tflite")
    model = load(shared / "weights" / "yamnet_folded.npz")
    theirs, on_theirs, ours, apart = [], [], [], []
    for path in sorted((shared / "data" / "esc10").rglob("*.ogg"))[::5]:
        windows = cut_windows(torch.from_numpy(load_waveform(path, sample_rate=16_000).samples), 15_600, 7_800)
        scores, logmel = converted(windows)
        (exact,) = model.inputs_of(windows)
        theirs.append(scores)
        on_theirs.append(scores_of(model, logmel))
        ours.append(scores_of(model, exact))
        apart.append(float((logmel - exact).abs().mean()))
    difference, by_window, by_clip = agreement(theirs, on_theirs)
    assert difference < 0.001
    assert (by_window > 0.86, by_clip > 0.88) == (True, True), (by_window, by_clip)
    difference, by_window, by_clip = agreement(theirs, ours)
    assert difference < 0.0015
    assert (by_window > 0.81, by_clip > 0.84) == (True, True), (by_window, by_clip)
    assert np.mean(apart) < 0.15
