"""The search: networks inside their budgets, a front without dominated points, resumption, and every refusal."""

import json
import signal
from dataclasses import replace
from itertools import product

import pytest

from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, Interrupted, OutputError, PruningError
from epanns.models.files.load import load
from epanns.pruning.recovery.recover import recover
from epanns.records import Stage, read_records
from epanns.reporting.rows import rows_by_block
from epanns.stages.agreement import agree
from epanns.stages.search import Point, front_of, search
from epanns.stages.search_space import BudgetRange, SearchConfig, groups_of
from tests.builders import contents, make_checkpoint, make_record

pytest.importorskip("optuna")

CONFIG = SearchConfig(BudgetRange.parse("macs:0.3..0.7"), recoveries=("none", "bn"), calibration_clips=8, trials=6)
TIMES = '"seconds": [0-9.e-]+'


@pytest.fixture(scope="module")
def given(tiny_packs, tmp_path_factory):
    """The network and the clips of a search."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("search") / "tiny", labels=tiny_packs["val"], seed=0)
    return load(checkpoint), PackDataset([tiny_packs["val"]])


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    """The folder and the result of a search that was not stopped."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    return folder, search(*given, CONFIG, folder)


def outcome_of(folder):
    """What two searches have in common: their networks with scores, and the weights of the front."""
    records = {record.trial_id: (record.stages[-1].scores, record.network) for record in read_records([folder])}
    return records, contents(folder / "front", without="(README.md|checksums.json|config.json)$")


def test_networks_are_inside_their_budgets_and_are_scored_as_epanns_agree_scores_them(given, finished):
    model, dataset = given
    folder, result = finished
    records = read_records([folder])
    assert result.n_trials == 6
    assert len(records) == result.n_points >= 3
    for record in records:
        limit = float(record.config["budget"].split()[1]) * profile(model).backbone_macs
        cost = profile(model.spec.with_widths(record.cost_after["widths"])).backbone_macs
        assert 0.99 * limit <= cost <= limit
        assert cost == Point(record).cost
        assert record.stages[0].scores["val"]["mAP"] == 1.0
    for point in result.front:
        network = load(folder / "front" / point.record.trial_id)
        found = agree(network, model, dataset, bootstrap=0).agreement
        assert point.score == pytest.approx(found.tag_mAP, abs=1e-9)
        assert network.spec.widths == point.record.cost_after["widths"]


def test_the_first_networks_have_one_ratio_at_the_ends_and_in_the_middle_of_the_range(given, finished):
    records = sorted(read_records([finished[0]]), key=lambda record: record.config["search"]["trial"])[:3]
    assert [record.config["budget"] for record in records] == ["macs 0.7", "macs 0.4583", "macs 0.3"]
    base = given[0].spec.widths
    for record in records:
        kept = [record.cost_after["widths"][layer] / base[layer] for layer in base]
        assert max(kept) - min(kept) <= 0.25  # one channel of the narrowest layer


def test_the_records_are_a_report_without_labels(finished):
    records = read_records([finished[0]])
    (key,), (rows,) = zip(*rows_by_block(records).items(), strict=True)
    assert key.protocol == "whole clip; mAP of the unpruned network's own tags"
    assert sum(row.is_pruned for row in rows) == len(records)
    shown = [setting.partition("=")[0] for row in rows for setting in row.settings]
    assert set(shown) <= {"search.trial", "budget", "calibration_clips"}
    assert sum(not row.is_pruned for row in rows) == 1


def test_a_search_that_is_stopped_and_resumed_is_that_which_was_not(given, finished, tmp_path):
    def stop(number, point, found):
        if number in (2, 4):
            signal.raise_signal(signal.SIGTERM)

    for _ in range(2):
        with pytest.raises(Interrupted, match=r"stopped by signal 15; [24] of 6 trials are kept in .*/parts: "):
            search(*given, CONFIG, tmp_path / "parts", on_trial=stop)
    seen = []
    search(*given, CONFIG, tmp_path / "parts", on_trial=lambda number, *_: seen.append(number))
    assert seen == [5, 6]
    assert outcome_of(tmp_path / "parts") == outcome_of(finished[0])
    search(*given, CONFIG, tmp_path / "parts", on_trial=lambda number, *_: seen.append(number))
    assert seen == [5, 6]


def test_a_network_that_was_evaluated_before_a_kill_is_not_evaluated_again(given, tmp_path, monkeypatch):
    """The process dies between the record of a trial and its outcome in the study."""

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("epanns.stages.search_space.Study.tell", die)
        with pytest.raises(KeyboardInterrupt):
            search(*given, replace(CONFIG, trials=1), tmp_path / "out")
    (record,) = read_records([tmp_path / "out"])

    def refuse(*_, **__):
        raise AssertionError("evaluated twice")

    monkeypatch.setattr("epanns.stages.search_evaluation.recover", refuse)
    result = search(*given, replace(CONFIG, trials=1), tmp_path / "out")
    assert (result.n_trials, result.n_points, result.front[0].record) == (1, 1, record)


def test_a_killed_process_leaves_nothing_that_stops_the_next(given, tmp_path):
    """A lock of Optuna, the beginning of a line, and a trial without an outcome."""
    search(*given, replace(CONFIG, trials=1), tmp_path / "out")
    journal = tmp_path / "out" / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    (tmp_path / "out" / "study.journal.lock").symlink_to("nothing")
    result = search(*given, replace(CONFIG, trials=2), tmp_path / "out")
    assert (result.n_trials, result.n_points) == (2, 2)


def test_equal_networks_are_evaluated_once(given, tmp_path, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return recover(*arguments, **options)

    monkeypatch.setattr("epanns.stages.search_evaluation.recover", counted)
    config = replace(CONFIG, budgets=BudgetRange.parse("params:0.8..0.82"), layers=("conv_block6",), trials=6)
    result = search(*given, replace(config, criteria=("l1",), recoveries=("none",)), tmp_path / "out")
    assert result.n_trials == 6
    assert len(calls) == result.n_points < 6


def test_a_search_continues_with_more_trials_and_refuses_other_settings(given, tmp_path):
    search(*given, replace(CONFIG, trials=2), tmp_path / "out")
    assert search(*given, replace(CONFIG, trials=3), tmp_path / "out").n_trials == 3
    with pytest.raises(OutputError, match=r"holds a search with seed=0, not 1: repeat"):
        search(*given, replace(CONFIG, seed=1), tmp_path / "out")
    result = search(*given, replace(CONFIG, seed=1, trials=1), tmp_path / "out", fresh=True)
    assert (result.n_trials, result.n_points) == (1, 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(OutputError, match="exists already and holds no search"):
        search(*given, CONFIG, tmp_path / "other")


def test_the_front_file_and_its_checkpoints_are_those_of_the_result(finished):
    folder, result = finished
    found = json.loads((folder / "front.json").read_text())
    assert found == json.loads(json.dumps(result.to_dict("macs", "agreement")))
    ids = {point.record.trial_id for point in result.front}
    assert {path.name for path in (folder / "front").iterdir()} == ids
    assert all((folder / each["checkpoint"] / "model.safetensors").exists() for each in found["front"])


def test_labels_are_used_on_request(given, tmp_path):
    model, dataset = given
    result = search(*given, replace(CONFIG, score="mAP", trials=1), tmp_path / "out")
    (record,) = read_records([tmp_path / "out"])
    assert record.protocol == "whole clip"
    assert result.dense[1] < 1.0 and "agreement_tag_mAP" not in record.stages[-1].scores["val"]


def test_no_point_of_the_front_is_dominated_and_every_other_is():
    values = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.5), (2.0, 0.4), (4.0, 0.9), (5.0, 0.9), (1.0, 0.2)]
    points = []
    for number, (cost, score) in enumerate(values):
        changes = {"config": {"search": {"trial": number}}, "cost_after": {"budget": {"reached": cost}}}
        stage = Stage("pruned", {"val": {"mAP": score}}, 0.0)
        points.append(Point(make_record(f"t{number}", 0, (stage,), **changes)))
    front = front_of(points)
    assert [(point.cost, point.score) for point in front] == [(1.0, 0.2), (2.0, 0.5), (4.0, 0.9)]
    assert front_of(reversed(points)) == front  # of the two at (1.0, 0.2) the earlier
    for one, other in product(points, front):
        is_better = one.cost <= other.cost and one.score >= other.score
        assert not is_better or (one.cost, one.score) == (other.cost, other.score)


def test_layers_are_grouped_by_block():
    assert groups_of(["conv_block1.conv1", "conv_block1.conv2", "features.11.block.0.0", "features.11.x", "stem"]) == {
        "conv_block1": ["conv_block1.conv1", "conv_block1.conv2"],
        "features.11": ["features.11.block.0.0", "features.11.x"],
        "stem": ["stem"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1..0.5", r"budget '0.1..0.5': must be a kind \(macs, params, bytes\) and a range, as macs:0.1..0.5"),
        ("latency:0.1..0.5", "must be a kind"),
        ("macs:0.1", "must be a kind"),
        ("macs:a..0.5", "'a' is no budget of macs"),
    ],
)
def test_ranges_that_are_none_are_refused(text, message):
    with pytest.raises((ConfigError, PruningError), match=message):
        BudgetRange.parse(text)


def test_settings_that_cannot_be_used_are_refused_before_anything_is_written(given, tmp_path):
    wrong = {
        r"of 0.5 to 0.3 of the unpruned network's macs: must rise and be below 1": {
            "budgets": BudgetRange.parse("macs:0.5..0.3")
        },
        "cannot be met": {"budgets": BudgetRange.parse("macs:1..0.5")},
        "unknown criterion 'l3'": {"criteria": ("l3",)},
        "criterion 'taylor' uses labels": {"criteria": ("taylor",)},
        "recover='bm'": {"recoveries": ("bm",)},
        "recoveries: give at least one": {"recoveries": ()},
        "criteria: l1, l1: give each once": {"criteria": ("l1", "l1")},
        "unknown layer 'conv_block7'": {"layers": ("conv_block7",)},
        "score='labels': must be mAP or agreement": {"score": "labels"},
    }
    for message, changes in wrong.items():
        with pytest.raises((ConfigError, PruningError), match=message):
            search(*given, replace(CONFIG, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_optuna_one_line_names_the_extra(given, tmp_path, monkeypatch):
    monkeypatch.setattr("epanns.stages.search_space.can_import", lambda module: False)
    with pytest.raises(ConfigError, match=r'epanns search needs optuna: pip install -e ".\[search\]"'):
        search(*given, CONFIG, tmp_path / "out")
