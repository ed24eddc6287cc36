"""Ray: the same table as in one process, also after the loss of a node, and no trial run twice."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from epanns.errors import ConfigError, Interrupted
from epanns.records import read_records
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.launchers.local import run_in_processes
from epanns.sweeps.launchers.ray_tasks import run_with_ray
from epanns.sweeps.runner import run_experiment
from epanns.sweeps.shard import Shard
from tests.sweeps.test_runner import TEXT
from tests.sweeps.test_shard import scores

pytestmark = [
    pytest.mark.slow,
    # Ray's own: sockets and log files that are closed when its processes end.
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning"),
]

_REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def text(tiny_packs) -> str:
    return TEXT.format(**tiny_packs, criterion="l1").replace("[0.0, 0.5]", "[0.0, 0.25, 0.5, 0.75]")


@pytest.fixture
def nodes(monkeypatch):
    """A cluster of two nodes with one core each; the second can be removed."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default, which waits for every other process
    monkeypatch.setenv("PYTHONPATH", str(_REPOSITORY))
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def run_on(cluster, queue):
    run_with_ray(queue, address=cluster.address)


def test_local_processes_shards_and_ray_give_one_table(nodes, tmp_path, text):
    experiment = parse_experiment(text, "t.toml")
    run_experiment(experiment, tmp_path / "here")
    run_experiment(experiment, tmp_path / "local", launcher=lambda queue: run_in_processes(queue, jobs=2))
    for index in range(2):
        run_experiment(experiment, tmp_path / "shards", shard=Shard(index, 2))
    summary = run_experiment(experiment, tmp_path / "ray", launcher=lambda queue: run_on(nodes, queue))
    assert (len(summary.done), len(summary.failed)) == (5, 0)
    tables = [scores(tmp_path / name) for name in ("here", "local", "shards", "ray")]
    assert tables[1:] == tables[:1] * 3


def test_a_node_that_is_lost_loses_no_trial(nodes, tmp_path, text):
    longer = text.replace("iterations = 2", "iterations = 40")
    experiment, out = parse_experiment(longer, "t.toml"), tmp_path / "out"
    removed = threading.Event()

    def remove_a_node():
        while len(list(out.glob("trials/*/finetuned/training.json"))) < 2:  # both nodes train
            time.sleep(0.02)
        nodes.remove_node(nodes.second, allow_graceful=False)
        removed.set()

    threading.Thread(target=remove_a_node, daemon=True).start()
    summary = run_experiment(experiment, out, launcher=lambda queue: run_on(nodes, queue))
    assert removed.is_set()
    assert (len(summary.done), len(summary.failed)) == (5, 0)
    ended = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    again = run_experiment(experiment, out)
    assert (len(again.done), len(again.skipped)) == (0, 5)
    assert ended == {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    run_experiment(experiment, tmp_path / "whole")
    assert scores(out) == scores(tmp_path / "whole")


def test_a_failed_trial_stops_no_other_and_a_signal_stops_all(nodes, tmp_path, text):
    experiment, out = parse_experiment(text.replace("iterations = 2", "iterations = 4000"), "t.toml"), tmp_path / "out"

    def stop():
        while not list(out.glob("trials/*/finetuned/state-*.pt")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match="the sweep was stopped; run the same command to resume it"):
        run_experiment(experiment, out, launcher=lambda queue: run_on(nodes, queue))
    assert not list(out.rglob("error.json"))
    assert len(read_records([out])) == 1  # the base

    short = parse_experiment(text.replace('["bn"]', '["ls"]'), "t.toml")
    for path in out.glob("trials/*/base/model.safetensors"):
        path.write_bytes(b"damaged")
    summary = run_experiment(short, out, launcher=lambda queue: run_on(nodes, queue))
    assert (len(summary.failed), len(summary.skipped)) == (4, 1)
    assert len(list(out.rglob("error.json"))) == 4


def test_what_no_cluster_can_do_is_refused(nodes, tmp_path, text):
    experiment = parse_experiment(text, "t.toml")
    for settings, message in (
        ({"cpus_per_trial": 2}, "--cpus-per-trial 2: no node of the cluster has more than 1; give at most as many"),
        ({"gpus_per_trial": 0.5}, "--gpus-per-trial 0.5: no node of the cluster has more than 0; give at most as many"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_experiment(
                experiment,
                tmp_path / "out",
                launcher=lambda queue, settings=settings: run_with_ray(queue, address=nodes.address, **settings),
            )


def test_a_cluster_that_does_not_answer_is_named(tmp_path, text):
    pytest.importorskip("ray")
    with pytest.raises(
        ConfigError, match=r"--address 127.0.0.1:9: no cluster of Ray answers .*start one with `ray sta"
    ):
        run_experiment(
            parse_experiment(text, "t.toml"),
            tmp_path / "out",
            launcher=lambda queue: run_with_ray(queue, address="127.0.0.1:9"),
        )
