import sys
from pathlib import Path

import pytest
import torch

from epanns.complexity import latency
from epanns.complexity.latency import Latency, measure_latency, measure_peak_memory
from epanns.errors import ConfigError
from epanns.models.spec import conv_widths
from epanns.models.zoo import build_model
from tests.builders import narrow_spec


@pytest.fixture(scope="module")
def model():
    return build_model(narrow_spec(widths=conv_widths(4, 6)))


def test_latency_is_ordered_and_records_its_settings(model):
    before = torch.get_num_threads()
    measured = measure_latency(model, seconds=0.5, threads=1, repeats=3)
    assert 0 < measured.min <= measured.median <= measured.max
    assert measured.threads == 1
    assert measured.runtime == f"torch {torch.__version__} eager cpu"
    assert measured.dtype == "float32"
    assert torch.get_num_threads() == before


def test_the_warm_up_is_left_out_and_the_median_is_over_the_repeats(model, monkeypatch):
    looks = iter([0.0, 9.0, 0.0, 9.0, 0.0, 9.0, 0.0, 0.002, 0.0, 0.005, 0.0, 0.003])  # three warm-ups, three repeats

    class Clock:
        perf_counter = staticmethod(lambda: next(looks, 0.0))

    monkeypatch.setattr(latency, "time", Clock)
    measured = measure_latency(model, seconds=0.5, repeats=3)
    assert (measured.min, measured.median, measured.max) == pytest.approx((2.0, 3.0, 5.0))


def test_modes_are_restored(model):
    model.train()
    model.conv_block2.eval()
    statistics = model.bn0.running_mean.clone()
    measure_latency(model, seconds=0.5, repeats=1)
    measure_peak_memory(model, seconds=0.5)
    assert model.training
    assert not model.conv_block2.bn1.training
    assert torch.equal(model.bn0.running_mean, statistics)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_at_least_the_input_and_weights(model):
    peak = measure_peak_memory(model, seconds=0.5)
    assert peak is None or peak > 2**20


def test_peak_memory_is_none_where_the_system_gives_none(model, monkeypatch, tmp_path):
    monkeypatch.setattr(latency, "_PROCESS", tmp_path / "nowhere")
    assert measure_peak_memory(model, seconds=0.5) is None
    monkeypatch.setattr(latency, "_PROCESS", tmp_path)
    (tmp_path / "status").write_text("VmRSS: 5 kB\n")
    assert measure_peak_memory(model, seconds=0.5) is None
    (tmp_path / "status").write_text("VmHWM:\t    5 kB\n")
    assert measure_peak_memory(model, seconds=0.5) == 5 * 1024
    assert Path(tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"threads": 0}, r"threads=0: must be at least 1"),
        ({"repeats": 0}, r"repeats=0: at least 1 timed pass is needed"),
        ({"seconds": 0.0}, r"seconds=0\.0: the clip to time must have at least one sample"),
        ({"seconds": float("nan")}, r"seconds=nan: the clip to time"),
    ],
)
def test_arguments_out_of_range_are_refused(model, arguments, match):
    with pytest.raises(ConfigError, match=match):
        measure_latency(model, **({"seconds": 0.5} | arguments))


def test_spread_is_relative_to_the_median():
    latency = Latency(median=20.0, min=18.0, max=23.0, threads=2, runtime="torch", dtype="float32")
    assert latency.spread == 0.25
    assert list(latency.to_dict()) == ["median", "min", "max", "threads", "runtime", "dtype"]
