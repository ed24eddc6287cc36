"""Laws that hold between two processes; run as a script in each of them by `test_two_processes.py`.

Arguments: the folder of the tiny packs, and one to write to. Each process prints a JSON line for each law: its rank,
the law, and what went wrong.
"""

import copy
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from epanns import distributed
from epanns.clip_random import clip_draws, clip_seeds
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, Interrupted, OutputError, TrainingError
from epanns.evaluation.predict import predict
from epanns.labels import LabelSet
from epanns.models.families.cnn_2d import Cnn
from epanns.models.tagger import Tagger
from epanns.models.zoo import build_model, spec_of
from epanns.stages.finetune import validation_on
from epanns.training.config import TrainingConfig
from epanns.training.data_parallel import SharedNetwork, synchronised_batch_norms
from epanns.training.finetune import finetune
from epanns.training.loop import RunOptions
from epanns.training.losses import clip_bce
from epanns.training.resume import TrainingState
from epanns.training.validation import Validation
from tests.builders import narrow_spec
from tests.evaluation.test_predict import LABELS, RATE, SPEC, FakeDataset
from tests.families import at_8k

Law = Callable[[], None]
UNASKED = Validation(lambda model: {}, {})


def name_of(law: Law) -> str:
    if not isinstance(law, partial):
        return law.__name__
    return " ".join([law.func.__name__, *(given for given in law.args if isinstance(given, str))])


def raised(work: Callable[[], object]) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def each_knows_its_place() -> None:
    assert distributed.world_size() == 2
    assert distributed.gather(distributed.rank()) == [0, 1]


def a_group_inside_a_group_is_the_same_one() -> None:
    with distributed.process_group("cpu") as device:
        assert (device, distributed.world_size()) == ("cpu", 2)
    assert distributed.world_size() == 2


def a_flag_of_one_is_a_flag_of_all() -> None:
    rank = distributed.rank()
    assert [distributed.any_of(flag) for flag in (rank == 0, rank == 1, False, True)] == [True, True, False, True]


def sums_are_over_all_and_leave_the_parts_alone() -> None:
    mine = torch.tensor([0.1, 1.0]) * (distributed.rank() + 1)
    before = mine.clone()
    assert torch.equal(distributed.total(mine), torch.tensor([0.1, 1.0]) + torch.tensor([0.2, 2.0]))
    assert torch.equal(mine, before)


def rows_come_in_the_order_of_ranks_however_many_each_has() -> None:
    rows = torch.arange(10).view(5, 2)
    for cut in range(6):
        mine = rows[:cut] if distributed.rank() == 0 else rows[cut:]
        for dtype in (torch.int64, torch.float64, torch.float32, torch.bool, torch.uint8):
            assert torch.equal(distributed.gather_rows(mine.to(dtype)), rows.to(dtype))


def values_of_rank_0_reach_all() -> None:
    value = {"text": "ü\n", "list": [1, 2.5, None, float("inf")]}
    assert distributed.broadcast(value if distributed.rank() == 0 else "mine") == value


def rank_0_works_for_all() -> None:
    done = []
    assert distributed.on_rank_zero(lambda: done.append(1) or {"n": 3}) == {"n": 3}
    assert done == ([1] if distributed.rank() == 0 else [])


def errors_of_rank_0_reach_all() -> None:
    def refuse() -> None:
        raise ConfigError("batch_size=0: must be at least 1")

    error = raised(lambda: distributed.on_rank_zero(refuse))
    assert (type(error), str(error)) == (ConfigError, "batch_size=0: must be at least 1")
    error = raised(lambda: distributed.on_rank_zero(lambda: Path("/nowhere/at/all").read_text()))
    if distributed.rank():
        assert isinstance(error, TrainingError)
        assert str(error).startswith("rank 0 failed with FileNotFoundError: [Errno 2]")
    else:
        assert isinstance(error, FileNotFoundError)


def assert_normalised_as_one(norm: nn.Module, x: torch.Tensor, steps: int = 2) -> None:
    """Compare the parts' outputs, gradients and statistics with torch's of the whole batch, in float64."""
    norm.zero_grad()
    whole, state = copy.deepcopy(norm).double(), list(norm.state_dict())
    share = slice(0, len(x) // 4) if distributed.rank() == 0 else slice(len(x) // 4, None)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    with synchronised_batch_norms(nn.ModuleList([norm])):
        for _ in range(steps):
            mine, ours = x[share].detach().requires_grad_(), x.detach().double().requires_grad_()
            made, expected = norm(mine), whole(ours)
            torch.testing.assert_close(made.double(), expected[share], rtol=0, atol=1e-6)
            (made * target[share]).sum().backward()
            (expected * target).sum().backward()
            torch.testing.assert_close(mine.grad.double(), ours.grad[share], rtol=0, atol=1e-6)
            assert list(norm.state_dict()) == state
    for name, parameter in norm.named_parameters():
        gradient = distributed.total(parameter.grad)
        torch.testing.assert_close(gradient.double(), whole.get_parameter(name).grad, rtol=1e-5, atol=1e-5)
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(buffer.double(), whole.get_buffer(name).double(), rtol=1e-6, atol=1e-6)
        assert torch.equal(distributed.gather_rows(buffer.view(1, -1))[0], buffer.view(-1))
    assert "forward" not in norm.__dict__


def batch_norms_see_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    for norm, shape in (
        (nn.BatchNorm2d(5), (8, 5, 6, 7)),
        (nn.BatchNorm1d(3, momentum=None), (8, 3, 11)),
        (nn.BatchNorm1d(4, affine=False), (8, 4)),
        (nn.BatchNorm2d(2, track_running_stats=False), (8, 2, 3, 3)),
    ):
        for parameter in norm.parameters():
            nn.init.normal_(parameter, 1, 0.5, generator=generator)
        x = torch.randn(shape, generator=generator) * 3 - 10
        assert_normalised_as_one(norm, x)
        if x.dim() == 4:
            assert_normalised_as_one(norm, x.to(memory_format=torch.channels_last))


def statistics_keep_their_digits_far_from_zero() -> None:
    x = torch.randn(64, 2, 50, generator=torch.Generator().manual_seed(2)).double() * 0.5 + 300
    norm = nn.BatchNorm1d(2, momentum=1.0)
    with synchronised_batch_norms(nn.Sequential(norm)):
        norm(x.float()[distributed.rank() :: 2])
    variance = x.float().double().var(dim=(0, 2))
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=0)


def frozen_batch_norms_use_what_they_know() -> None:
    norm, x = nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 2, 2)
    with synchronised_batch_norms(nn.Sequential(norm)):
        if distributed.rank() == 0:  # nothing is exchanged: the other need not come
            assert torch.equal(norm(x), nn.BatchNorm2d(3).eval()(x))
    assert norm.num_batches_tracked == 0


def bfloat16_is_normalised_in_float32() -> None:
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(3)).bfloat16() + 5
    share = slice(0, 4) if distributed.rank() == 0 else slice(4, None)
    norm = nn.BatchNorm2d(3)
    with synchronised_batch_norms(nn.Sequential(norm)), torch.autocast("cpu", torch.bfloat16):
        made = norm(x[share])
    assert made.dtype == torch.bfloat16
    expected = nn.BatchNorm2d(3)(x.float())[share]
    torch.testing.assert_close(made, expected.bfloat16(), rtol=0, atol=0)


def every_clip_is_scored_once_and_in_order() -> None:
    model = Cnn(SPEC, LABELS).eval()
    for n_clips in (1, 5, 8):
        data = FakeDataset([RATE - 10 * index for index in range(n_clips)])
        found = predict(model, data, batch_size=2)
        assert found.clip_ids == tuple(f"clip{index}" for index in range(n_clips))
        assert found.mean_samples == sum(data.lengths) / n_clips
        assert (found.target == data.target.numpy()).all()
        with torch.no_grad():
            expected = model(data.waveform / 32767)["clipwise_output"].numpy()
        np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-6)
        digests = distributed.gather(hashlib.sha256(found.scores.tobytes()).hexdigest())
        assert digests[0] == digests[1]


RECIPE = TrainingConfig(iterations=4, batch_size=8, validate_every=2, learning_rate=1e-3)
CASES: dict[str, tuple[str, TrainingConfig]] = {
    "recipe": ("narrow", RECIPE),
    "parts": ("narrow", replace(RECIPE, accumulate=2, ema_decay=0.9, clip_norm=0.1)),
    "head": ("narrow", replace(RECIPE, head_iterations=2)),
    "frozen": ("narrow", replace(RECIPE, freeze_backbone=True)),
    "idle": ("DaiNet19", RECIPE),
    "taught": ("narrow", replace(RECIPE, distil_weight=0.5, feature_weight=0.5)),
}


def network(name: str, labels: LabelSet) -> Tagger:
    torch.manual_seed(4)
    spec = narrow_spec(num_classes=4) if name == "narrow" else at_8k(spec_of(name, num_classes=4, width=1 / 16))
    return build_model(spec, labels=labels)


def trained(packs: Path, case: str, out: Path, **how: Any) -> Tagger:
    """Train a few steps and return the network as it is after the last one."""
    name, config = CASES[case]
    data, val = (PackDataset([packs / part]) for part in ("train", "val"))
    model, teacher = network(name, data.labels), None
    if config.distil_weight:
        teacher = network(name, data.labels)
        nn.init.normal_(teacher.fc_audioset.weight)
    finetune(model, data, config, out, validation=validation_on(val), options=RunOptions(**how), teacher=teacher)
    return model


# In float32 rounding moves MobileNetV2's gradients by percents, on one process already; in float64 it excuses nothing.
IN_FLOAT64 = ("YAMNet", "LEAN", "MobileNetV2", "ResNet22")


def gradients_are_those_of_the_whole_batch(name: str) -> None:
    places = range(16)
    own = places[:8] if distributed.rank() == 0 else places[8:]
    generator = torch.Generator().manual_seed(6)
    shapes = {"waveform": (16, 8_000), "mixing": (8,), "target": (8, 4)}
    given = {key: torch.rand(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}
    model = network(name, LabelSet.numbered(4)).double().train()
    whole = copy.deepcopy(model)

    def learn(called: nn.Module, heard: range) -> None:
        pairs = [place // 2 for place in heard[::2]]
        with clip_draws(clip_seeds(0, 0, heard)):
            output = called(given["waveform"][heard] - 0.5, given["mixing"][pairs])
        clip_bce(output["clipwise_logits"], given["target"][pairs]).backward()

    learn(whole, places)
    with synchronised_batch_norms(model):
        learn(SharedNetwork(model, called=model).now(), own)
    made, expected = contents(model), contents(whole)
    assert made.keys() == expected.keys()
    gradients = [key for key in expected if key.startswith("gradient of")]
    nothing = dict.fromkeys(gradients, torch.zeros(()))
    assert distance(made, expected, gradients) < 1e-9 * distance(expected, nothing, gradients)
    for key in set(expected) - {*gradients}:
        torch.testing.assert_close(made[key], expected[key], rtol=1e-9, atol=1e-9)


def both_end_with_the_same_weights_and_rank_0_writes(packs: Path, out: Path, case: str) -> None:
    rank = distributed.rank()
    own = out / f"rank-{rank}" / case
    state = contents(trained(packs, case, own))
    digests = distributed.gather({name: sha256_of_tensor(value) for name, value in state.items()})
    assert digests[0] == digests[1]
    assert own.exists() == (rank == 0)
    if rank == 0:
        save_file(state, out / f"{case}.safetensors")


def contents(model: Tagger) -> dict[str, torch.Tensor]:
    """Return a network's weights, statistics and last gradients."""
    gradients = {f"gradient of {name}": each.grad for name, each in model.named_parameters() if each.grad is not None}
    return {name: value.contiguous() for name, value in (model.state_dict() | gradients).items()}


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], names: list[str]) -> float:
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in names) ** 0.5


def sha256_of_tensor(value: torch.Tensor) -> str:
    return hashlib.sha256(value.numpy().tobytes()).hexdigest()


def a_signal_to_one_stops_both_and_the_run_goes_on_to_the_same_bytes(packs: Path, out: Path) -> None:
    def stop(state: TrainingState, loss: float) -> None:  # rank 0 alone is told of steps
        if state.step == 3:
            signal.raise_signal(signal.SIGTERM)

    error = raised(lambda: trained(packs, "recipe", out / "stopped", on_step=stop))
    assert isinstance(error, Interrupted)
    assert error.exit_code == 143
    assert "signal 15 at step 3 of 4; the state of step 3 is saved in" in str(error)
    trained(packs, "recipe", out / "stopped", workers=1)
    if distributed.rank() == 0:
        whole = out / "rank-0" / "recipe"
        assert (out / "stopped" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def a_folder_of_something_else_is_refused_by_both(packs: Path, out: Path) -> None:
    if distributed.rank() == 0:
        (out / "thesis").mkdir()
        (out / "thesis" / "thesis.txt").write_text("years of work")
    error = raised(lambda: trained(packs, "recipe", out / "thesis"))
    assert isinstance(error, OutputError)
    assert "thesis exists already and is no training run" in str(error)


def a_folder_that_one_cannot_see_is_refused_by_both(packs: Path, out: Path) -> None:
    def stop(state: TrainingState, loss: float) -> None:
        signal.raise_signal(signal.SIGTERM)

    own = out / f"rank-{distributed.rank()}" / "unshared"
    assert isinstance(raised(lambda: trained(packs, "recipe", own, on_step=stop)), Interrupted)
    error = raised(lambda: trained(packs, "recipe", own))
    assert isinstance(error, TrainingError)
    assert str(error) == "the processes found the run at steps 1, 0: --out must be on a disk they share"


def what_cannot_be_shared_out_is_refused_before_anything_is_written(packs: Path, out: Path) -> None:
    data = PackDataset([packs / "train"])
    for config, wanted in (
        (replace(RECIPE, batch_size=7), "to 2 processes: take a multiple of 2 (--batch-size)"),
        (replace(RECIPE, compile=True), "compile=True with 2 processes: leave out --compile, or start one process"),
        (replace(RECIPE, batch_size=9, accumulate=3), "9 cannot be shared out to 2 processes in 3 parts: take a mult"),
    ):
        start = partial(finetune, network("narrow", data.labels), data, config, out / "no", validation=UNASKED)
        error = raised(start)
        assert isinstance(error, ConfigError)
        assert wanted in str(error)
    assert not (out / "no").exists()


def laws(packs: Path, out: Path) -> list[Law]:
    return [
        each_knows_its_place,
        a_group_inside_a_group_is_the_same_one,
        a_flag_of_one_is_a_flag_of_all,
        sums_are_over_all_and_leave_the_parts_alone,
        rows_come_in_the_order_of_ranks_however_many_each_has,
        values_of_rank_0_reach_all,
        rank_0_works_for_all,
        errors_of_rank_0_reach_all,
        batch_norms_see_the_whole_batch,
        statistics_keep_their_digits_far_from_zero,
        frozen_batch_norms_use_what_they_know,
        bfloat16_is_normalised_in_float32,
        *(partial(gradients_are_those_of_the_whole_batch, name) for name in IN_FLOAT64),
        every_clip_is_scored_once_and_in_order,
        *(partial(both_end_with_the_same_weights_and_rank_0_writes, packs, out, case) for case in CASES),
        partial(a_signal_to_one_stops_both_and_the_run_goes_on_to_the_same_bytes, packs, out),
        partial(a_folder_of_something_else_is_refused_by_both, packs, out),
        partial(a_folder_that_one_cannot_see_is_refused_by_both, packs, out),
        partial(what_cannot_be_shared_out_is_refused_before_anything_is_written, packs, out),
    ]


def told(law: Law) -> None:
    """Print what becomes of a law."""
    problem, rank = "", distributed.rank()
    try:
        law()
    except Exception:
        problem = traceback.format_exc()
    print(json.dumps({"rank": rank, "law": name_of(law), "problem": problem}), flush=True)


def the_end_of_one_is_told_to_the_other(parted: Law) -> None:
    error = raised(parted)
    assert type(error) is TrainingError
    assert "another process of this run has ended (" in str(error)
    assert distributed.world_size() == 1


def main(packs: str, out: str) -> None:
    torch.set_num_threads(1)

    def all_laws_and_then_part() -> None:
        with distributed.process_group("cpu", timeout=60):
            for law in laws(Path(packs), Path(out)):
                torch.manual_seed(0)
                told(law)
                distributed.any_of(False)
            if distributed.rank() == 0:
                distributed.any_of(False)  # where the other does not come

    if os.environ["RANK"] == "1":
        all_laws_and_then_part()
    else:
        told(partial(the_end_of_one_is_told_to_the_other, all_laws_and_then_part))


if __name__ == "__main__":
    main(*sys.argv[1:])
