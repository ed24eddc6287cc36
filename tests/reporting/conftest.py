"""A small sweep made by hand: one network, two ratios, two seeds, with base and control."""

import pytest

from tests.builders import make_record, make_stage


@pytest.fixture
def records():
    made = []
    for seed, shift in ((0, 0.0), (1, 0.02)):
        dense = make_stage("dense", 0.80 + shift)
        made.append(make_record(f"base{seed}", seed, (dense,), config={"kind": "base", "seed": seed}))
        control = (dense, make_stage("finetuned", 0.82 + shift))
        made.append(make_record(f"control{seed}", seed, control, ratio=0.0, finetune_iterations=300))
        for ratio, cut, tuned in ((0.25, 0.6, 0.81), (0.5, 0.3, 0.79)):
            stages = (dense, make_stage("pruned", cut + shift), make_stage("finetuned", tuned + 2 * shift))
            options = {"ratio": ratio, "criterion": "l1", "finetune_iterations": 300}
            made.append(make_record(f"l1-{ratio}-{seed}", seed, stages, **options))
    return made
