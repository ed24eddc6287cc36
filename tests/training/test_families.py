"""Networks of every other family are trained, resumed and read back from their checkpoints."""

import signal
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
import torch

from epanns.data.batches.dataset import PackDataset
from epanns.errors import Interrupted
from epanns.models.files.load import load
from epanns.models.spec import FUSION_FAMILIES, WITHOUT_FC1
from epanns.models.tagger import Tagger
from epanns.models.zoo import ZOO, build_model
from epanns.stages.finetune import validation_on
from epanns.training.config import TrainingConfig
from epanns.training.finetune import TrainingResult, finetune
from epanns.training.loop import RunOptions
from epanns.training.resume import TrainingState
from epanns.training.validation import Validation
from tests.builders import same_tensors
from tests.families import at_8k

# The Cnn family has tests of its own, and the Wavegram beside a log-mel is made for 32 kHz alone.
OTHERS = [spec for spec in ZOO.values() if spec.family not in ("cnn", "wavegram_logmel_cnn14")]
SPECS = {spec.family: at_8k(spec.scaled(1 / 32)) for spec in OTHERS}
# With mixup, dropout and SpecAugment, which are the defaults.
EVERYTHING = TrainingConfig(
    iterations=4, batch_size=4, validate_every=2, learning_rate=5e-3, clip_norm=0.1, ema_decay=0.9
)
PRECISIONS = dict(zip(SPECS, cycle(("float32", "bfloat16"))))
QUICK = ("mobilenet_v2", "leenet11", "lean")


@pytest.mark.parametrize("family", SPECS)
def test_a_narrow_network_learns_and_is_read_back(family, tiny_packs, tmp_path):
    dataset = PackDataset([tiny_packs["train"]])
    spec = SPECS[family]
    model = build_model(spec, labels=dataset.labels)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    config = TrainingConfig(iterations=2, batch_size=4, validate_every=2)
    scores = iter([0.1, 0.2])
    validation = Validation(lambda model: {"mAP": next(scores)}, {})
    assert finetune(model, dataset, config, tmp_path / "run", validation=validation).best_step == 2
    learned = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    parts = [*model.classifier_names, next(iter(spec.widths)).split(".")[0]]
    parts += [] if family in WITHOUT_FC1 else [model.embedding_layer]
    parts += ["encoder"] if family in FUSION_FAMILIES else []
    assert all(any(name.startswith(f"{part}.") for name in learned) for part in parts)
    saved = load(tmp_path / "run")
    assert saved.spec == spec.with_num_classes(len(dataset.labels))
    assert same_tensors(saved, model)


class Training:
    """A run of one family whose every call starts from a network built anew; each validation's checkpoint is the best.

    The scores are those of real predictions, to which the number of the validation is added.
    """

    def __init__(self, family: str, packs: dict[str, Path], out: Path) -> None:
        self.spec, self.out = SPECS[family], out
        self.config = replace(EVERYTHING, precision=PRECISIONS[family])
        self.dataset, real = PackDataset([packs["train"]]), validation_on(PackDataset([packs["val"]]))
        counted = iter(range(100))
        self.validation = Validation(lambda model: {"mAP": real.score(model)["mAP"] + next(counted)}, real.data)

    def run(self, *, stop_after: int | None = None) -> tuple[Tagger, TrainingResult]:
        def stop(state: TrainingState, loss: float) -> None:
            if state.step == stop_after:
                signal.raise_signal(signal.SIGTERM)

        torch.manual_seed(3)
        model = build_model(self.spec, labels=self.dataset.labels)
        torch.manual_seed(stop_after or 0)  # where the caller's random numbers stand is of no concern
        result = finetune(
            model, self.dataset, self.config, self.out, validation=self.validation, options=RunOptions(on_step=stop)
        )
        return model, result

    def stopped_after(self, step: int) -> None:
        with pytest.raises(Interrupted, match=f"signal 15 at step {step} of 4; the state of step {step} is saved in"):
            self.run(stop_after=step)


@pytest.mark.parametrize(
    "family", [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in SPECS]
)
def test_a_run_that_is_stopped_twice_ends_with_the_same_bytes(family, tiny_packs, tmp_path):
    model, result = Training(family, tiny_packs, tmp_path / "whole").run()
    again = Training(family, tiny_packs, tmp_path / "stopped")
    for step in (1, 3):
        again.stopped_after(step)
    resumed, ended = again.run()
    assert result.best_step == ended.best_step == 4
    assert ended.curve == result.curve
    last, expected = resumed.state_dict(), model.state_dict()
    assert all(torch.equal(last[name], value) for name, value in expected.items())
    whole, stopped = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "stopped"))
    assert stopped == whole
