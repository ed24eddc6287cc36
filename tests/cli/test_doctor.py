"""`epanns doctor` names what loads, what does not, and what would help; exit code 1 where the core cannot work."""

import json

import pytest

from epanns.cli import doctor
from epanns.cli.doctor import Package, check_package
from epanns.cli.main import cli
from epanns.packages import CORE, EXTRAS


def test_it_names_every_package_once_and_works_here(runner):
    result = runner.invoke(cli, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in (*CORE, *(f"[{name}]" for name in EXTRAS), "threads", "GPU", "trial"):
        assert sum(line.startswith(f"  {name} ") for line in result.stdout.splitlines()) == 1, name
    assert result.stdout.endswith("\nepanns works here.\n")


def test_json_has_the_same(runner):
    result = json.loads(runner.invoke(cli, ["doctor", "--json"]).stdout)
    assert [package["name"] for package in result["core"]] == list(CORE)
    assert set(result["extras"]) == set(EXTRAS)
    assert result["works"] is True
    assert result["trial"]["problem"] is None


@pytest.fixture
def broken(monkeypatch, request):
    """A machine on which one package cannot be imported."""
    check = doctor.check_package

    def fail(name, module):
        found = check(name, module)
        return Package(name, found.version, "OSError: no.so") if name == request.param else found

    monkeypatch.setattr(doctor, "check_package", fail)


@pytest.mark.parametrize("broken", ["h5py"], indirect=True)
def test_a_core_package_that_cannot_be_imported_is_exit_code_1(runner, broken):
    result = runner.invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "cannot be imported (OSError: no.so)\n" in result.stdout
    assert result.stdout.endswith(
        "\nepanns cannot work here: h5py; run pip install -e . in its source folder, in a new environment\n"
    )


@pytest.mark.parametrize("broken", ["torchaudio"], indirect=True)
@pytest.mark.parametrize("arguments", [["doctor"], ["info", "--versions"]], ids=" ".join)
def test_torchaudio_may_fail(runner, broken, arguments):
    result = runner.invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "cannot be imported (OSError: no.so); the mel filterbank is computed without it, with the same values\n" in (
        result.stdout
    )


@pytest.mark.parametrize("broken", ["onnxruntime"], indirect=True)
def test_a_broken_extra_is_named_with_its_remedy(runner, broken):
    result = runner.invoke(cli, ["doctor"])
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "[onnx]" in line)
    assert "onnxruntime cannot be imported (OSError: no.so); adds epanns export" in line
    assert 'pip install -e ".[onnx]"' in line


def test_missing_and_old_packages_are_reported():
    missing = check_package("no-such-package", "no_such_module")
    assert missing.state() == "not installed"
    old = Package("torch", "2.9.1+cpu", None, lowest="2.13")
    assert old.state() == "ok, but older than 2.13, the lowest release that is tested"
    assert Package("torch", "2.13.0+cpu", None, lowest="2.13").state() == "ok"


def test_a_failing_trial_is_exit_code_1(runner, monkeypatch):
    monkeypatch.setattr("epanns.pruning.prune.prune", lambda *_, **__: 1 / 0)
    result = runner.invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "a small Cnn6: ZeroDivisionError: division by zero" in result.stdout
    assert "epanns cannot work here: the trial failed; run" in result.stdout


@pytest.mark.parametrize("arguments", [["info"], ["info", "--versions", "."]], ids=" ".join)
def test_info_takes_a_checkpoint_or_versions(runner, arguments):
    result = runner.invoke(cli, arguments)
    assert result.exit_code == 2
    assert "give either CHECKPOINT or --versions" in result.stderr
