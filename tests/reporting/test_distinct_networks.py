"""Records of one network count as one network under all seeds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.pruning.ranking.criteria import CRITERIA, NEEDS
from epanns.records import RunRecord, Stage
from epanns.reporting.rows import UNSEEDED_CRITERIA, count_networks, network_at

COST = {"n_params": 100, "param_bytes": 400, "backbone_macs": 1000}
BASE = {"kind": "base", "seed": 0, "checkpoint_sha256": "c" * 64}


def pruned(seed, *stages, criterion="l1", base=BASE, network=None, **config):
    settings = {"kind": "pruned", "base": base, "seed": seed, "ratio": 0.5, "criterion": criterion, "recover": "none"}
    return RunRecord(
        f"{criterion}{seed}",
        *("sweep", "Cnn6", 1.0, criterion, ("conv_block4",), 0.5, "none", 0, seed, "data", "whole clip", 5.0),
        config=settings | config,
        plan_digest=str(seed) * 64,  # of every seed another: the plan holds the seed
        cost_before=COST,
        cost_after=COST,
        stages=tuple(Stage(name, {"test": {"mAP": 0.5}}, 1.0) for name in stages),
        device="cpu",
        versions={},
        seconds=1.0,
        network=network,
    )


def test_a_checkpoint_pruned_by_its_weights_is_one_network_for_all_seeds():
    records = [pruned(seed, "dense", "pruned") for seed in range(3)]
    assert count_networks(records) == 1
    assert len({network_at(record, "dense") for record in records}) == 1


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"criterion": "random"}, ("dense", "pruned")),
        ({"criterion": "taylor", "calibration_clips": 40}, ("dense", "pruned")),
        ({"criterion": "l1, then random"}, ("dense", "pruned")),
        ({"criterion": "made here"}, ("dense", "pruned")),
        ({"recover": "bn", "calibration_clips": 40}, ("dense", "pruned", "recovered")),
        ({"finetune": {"iterations": 3}}, ("dense", "pruned", "finetuned")),
    ],
)
def test_what_depends_on_the_seed_is_another_network_under_each(changes, stages):
    records = [pruned(seed, *stages, **changes) for seed in range(3)]
    assert count_networks(records) == 3
    assert len({network_at(record, "dense") for record in records}) == 1


def test_the_pruned_network_is_one_network_before_any_fine_tuning():
    records = [pruned(seed, "dense", "pruned", "finetuned", finetune={"seed": seed}) for seed in range(3)]
    assert len({network_at(record, "pruned") for record in records}) == 1
    assert count_networks(records) == 3


def test_bases_are_distinguished_by_seed_or_by_weights():
    trained = [{"kind": "base", "seed": seed, "training": {"seed": seed}} for seed in range(3)]
    assert count_networks(pruned(base["seed"], "dense", "pruned", base=base) for base in trained) == 3
    others = [BASE | {"checkpoint_sha256": letter * 64} for letter in "ab"]
    assert count_networks(pruned(0, "dense", "pruned", base=base) for base in others) == 2


def test_a_base_and_its_pruned_networks_share_the_unpruned_network():
    offspring = pruned(2, "dense", "pruned")
    own = replace(pruned(0, "dense"), config=BASE, criterion=None, network="f" * 64)
    assert network_at(own, "dense") == network_at(offspring, "dense")


def test_recorded_weights_decide():
    same = [pruned(seed, "dense", "recovered", network="a" * 64, recover="bn") for seed in range(3)]
    assert count_networks(same) == 1
    assert count_networks([*same, pruned(0, "dense", "recovered", network="b" * 64, recover="bn")]) == 2


def test_checkpoints_scored_alone_are_identified_by_their_sha256():
    def evaluated(seed, checkpoint, network=None):
        config = {"kind": "evaluated", "checkpoint": checkpoint}
        return replace(pruned(seed, "evaluated"), config=config, criterion=None, network=network)

    assert count_networks([evaluated(0, "one@aaa"), evaluated(1, "copy@aaa")]) == 1
    assert count_networks([evaluated(0, "one@aaa"), evaluated(0, "one@bbb")]) == 2
    assert count_networks([evaluated(0, "one@None"), evaluated(1, "one@None")]) == 2
    assert count_networks([evaluated(0, "one@aaa", "f" * 64), evaluated(1, "two@bbb", "f" * 64)]) == 1


def test_criteria_that_need_no_seed_are_those_of_weights_alone():
    assert {name for name in CRITERIA if NEEDS[name] == "weights"} - {"random"} == UNSEEDED_CRITERIA


def test_published_records_are_as_many_networks_as_they_have_seeds():
    for folder in ("esc10", "pruning/esc50", "lean-contest/esc50"):
        by_stage: dict[str, set[tuple[str, int]]] = {}
        for path in (Path(__file__).parents[2] / "results" / folder / "records").glob("*.json"):
            record = RunRecord.from_dict(json.loads(path.read_text()))
            for stage in record.stages:
                by_stage.setdefault(network_at(record, stage.name), set()).add((stage.name, record.seed))
        assert all(len({seed for _, seed in found}) == 1 for found in by_stage.values())
