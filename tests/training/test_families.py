"""Every other family learns by the same loop and comes back from its checkpoint."""

from dataclasses import replace

import pytest
import torch

from epanns.data.dataset import PackDataset
from epanns.models.checkpoint import load
from epanns.models.zoo import FRONT_ENDS, ZOO, build_model
from epanns.training.config import TrainingConfig
from epanns.training.loop import Validation, finetune

# The Cnn family has tests of its own, and the Wavegram beside a log-mel is made for 32 kHz alone.
ROWS = {spec.family: spec for spec in ZOO.values() if spec.family not in ("cnn", "wavegram_logmel_cnn14")}


@pytest.mark.parametrize("family", ROWS)
def test_a_narrow_network_learns_and_is_read_back(family, tiny_packs, tmp_path):
    dataset = PackDataset([tiny_packs["train"]])
    spec = replace(ROWS[family].scaled(1 / 32), front_end=FRONT_ENDS[8_000])
    model = build_model(spec, labels=dataset.labels)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    config = TrainingConfig(iterations=2, batch_size=4, validate_every=2)
    scores = iter([0.1, 0.2])
    validation = Validation(lambda model: {"mAP": next(scores)}, {})
    assert finetune(model, dataset, config, tmp_path / "run", validation=validation).best_step == 2
    learned = {name.split(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert {"fc1", "fc_audioset", next(iter(spec.widths)).split(".")[0]} <= learned
    saved = load(tmp_path / "run")
    assert saved.spec == spec.with_num_classes(len(dataset.labels))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.state_dict().items())
