"""The mel filterbank has the same bits with and without torchaudio, and its areas are 1."""

import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.audio import frontend
from epanns.audio.frontend import slaney_filterbank, torchaudio_problem
from epanns.feedback import Note
from epanns.models.zoo import build_model

needs_torchaudio = pytest.mark.skipif(torchaudio_problem() is not None, reason=f"torchaudio: {torchaudio_problem()}")
PANNS = dict(frequency_bins=513, fmin=50, fmax=14_000, mel_bins=64, sample_rate=32_000)

banks = st.fixed_dictionaries(
    {
        "frequency_bins": st.sampled_from([65, 129, 257, 401, 513, 1025, 2049]),
        "fmin": st.one_of(st.just(0), st.floats(0, 900)),
        "fmax": st.floats(1_500, 4_000),
        "mel_bins": st.integers(1, 256),
        "sample_rate": st.sampled_from([8_000, 16_000, 22_050, 32_000, 44_100, 48_000]),
    }
)


def without_torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "torchaudio_problem", lambda: "OSError: libc10_cuda.so")


@needs_torchaudio
@given(banks)
@settings(max_examples=100)
def test_closed_form_has_torchaudios_bits(settings):
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # filters without a frequency bin, of which both warn
        theirs = slaney_filterbank(**settings)
        without_torchaudio(patch)
        assert torch.equal(slaney_filterbank(**settings), theirs)


def test_closed_form_has_triangles_of_area_one(monkeypatch):
    without_torchaudio(monkeypatch)
    bank = slaney_filterbank(**PANNS | {"frequency_bins": 2**16 + 1})
    areas = bank.double().sum(0) * 16_000 / 2**16  # Hz per bin
    assert (areas - 1).abs().max() < 1e-4
    assert ((bank > 0).sum(0).diff() >= -1).all(), "filters widen with frequency"


@pytest.mark.parametrize("has_torchaudio", [True, False])
def test_a_filter_without_a_frequency_bin_is_a_note(monkeypatch, has_torchaudio):
    if not has_torchaudio:
        without_torchaudio(monkeypatch)
    with pytest.warns(Note, match=r"^\d+ of 256 mel filters hold no frequency bin: give fewer mel bins$") as given:
        bank = slaney_filterbank(**PANNS | {"mel_bins": 256, "frequency_bins": 65})
    assert (bank.amax(0) == 0).any()
    assert len(given) == 1


@pytest.mark.parametrize("error", [OSError("libc10_cuda.so: no\nsuch file"), ImportError("no"), RuntimeError("CUDA")])
def test_a_torchaudio_that_fails_is_replaced_and_named(tmp_path, monkeypatch, error):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(f"raise {error!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    torchaudio_problem.cache_clear()
    try:
        build_model("Cnn6", width=0.0625).train()(torch.zeros(2, 32_000))
        assert torchaudio_problem() == f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        torchaudio_problem.cache_clear()
