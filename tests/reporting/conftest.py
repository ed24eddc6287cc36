"""A small sweep made by hand: one network, two ratios, two seeds, with base and control."""

from dataclasses import replace

import pytest

from epanns.records import RunRecord, Stage

COSTS = {0.0: (5_000_000, 1_200_000_000), 0.25: (3_000_000, 900_000_000), 0.5: (1_500_000, 750_000_000)}
BLOCKS = ("conv_block4", "conv_block5", "conv_block6")


def cost(ratio):
    n_params, macs = COSTS[ratio]
    return {"n_params": n_params, "param_bytes": 4 * n_params, "backbone_macs": macs}


def stage(name, test, val=0.9):
    return Stage(name, {"val": {"mAP": val}, "test": {"mAP": test, "mAUC": 0.9, "d_prime": None}}, 1.0)


def make_record(trial_id, seed, stages, *, ratio=None, criterion=None, **changes):
    record = RunRecord(
        trial_id=trial_id,
        experiment="esc10",
        model="Cnn14",
        width=0.25,
        criterion=criterion,
        layers=BLOCKS if criterion else (),
        ratio=ratio,
        recover="none",
        finetune_iterations=0,
        seed=seed,
        dataset="ESC-10",
        protocol="whole clip",
        clip_seconds=5.0,
        config={"kind": "pruned", "base": {"kind": "base", "seed": seed}, "seed": seed},
        plan_digest=None,
        cost_before=cost(0.0),
        cost_after=cost(ratio or 0.0),
        stages=stages,
        device="cpu",
        versions={},
        seconds=2.0,
    )
    return replace(record, **changes)


@pytest.fixture
def records():
    made = []
    for seed, shift in ((0, 0.0), (1, 0.02)):
        dense = stage("dense", 0.80 + shift)
        made.append(make_record(f"base{seed}", seed, (dense,), config={"kind": "base", "seed": seed}))
        control = (dense, stage("finetuned", 0.82 + shift))
        made.append(make_record(f"control{seed}", seed, control, ratio=0.0, finetune_iterations=300))
        for ratio, cut, tuned in ((0.25, 0.6, 0.81), (0.5, 0.3, 0.79)):
            stages = (dense, stage("pruned", cut + shift), stage("finetuned", tuned + 2 * shift))
            options = {"ratio": ratio, "criterion": "l1", "finetune_iterations": 300}
            made.append(make_record(f"l1-{ratio}-{seed}", seed, stages, **options))
    return made
