"""Every other family learns by the same loop and comes back from its checkpoint."""

from dataclasses import replace

import pytest
import torch

from epanns.audio.frontend import FrontEndSpec
from epanns.data.dataset import PackDataset
from epanns.models.checkpoint import load
from epanns.models.layouts import FUSION_FAMILIES, WITHOUT_FC1
from epanns.models.zoo import FRONT_ENDS, ZOO, build_model
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.validation import Validation

# The Cnn family has tests of its own, and the Wavegram beside a log-mel is made for 32 kHz alone.
ROWS = {spec.family: spec for spec in ZOO.values() if spec.family not in ("cnn", "wavegram_logmel_cnn14")}
YAMNET_AT_8K = FrontEndSpec(8_000, 200, 80, 64, 125, 3_750, kind="yamnet")


@pytest.mark.parametrize("family", ROWS)
def test_a_narrow_network_learns_and_is_read_back(family, tiny_packs, tmp_path):
    dataset = PackDataset([tiny_packs["train"]])
    is_yamnet = ROWS[family].front_end.is_yamnet
    spec = replace(ROWS[family].scaled(1 / 32), front_end=YAMNET_AT_8K if is_yamnet else FRONT_ENDS[8_000])
    model = build_model(spec, labels=dataset.labels)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    config = TrainingConfig(iterations=2, batch_size=4, validate_every=2)
    scores = iter([0.1, 0.2])
    validation = Validation(lambda model: {"mAP": next(scores)}, {})
    assert finetune(model, dataset, config, tmp_path / "run", validation=validation).best_step == 2
    learned = {name.split(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert {"fc_audioset", next(iter(spec.widths)).split(".")[0]} <= learned
    assert family in WITHOUT_FC1 or "fc1" in learned
    assert family not in FUSION_FAMILIES or "encoder" in learned
    saved = load(tmp_path / "run")
    assert saved.spec == spec.with_num_classes(len(dataset.labels))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.state_dict().items())
