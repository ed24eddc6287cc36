"""What follows from an experiment alone is refused before anything is trained, all of it at once."""

import pytest

from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.zoo import build_model
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.config import PruningConfig
from epanns.pruning.prune import plan_pruning, widths_after
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.runner import run_experiment
from tests.sweeps.test_runner import TEXT

SYNTHETIC = '"synthetic"\nsynthetic = { clips = 40, classes = 3 }'


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Run an experiment that must be refused before anything is trained; return the message."""

    def never(*asked, **options):
        raise AssertionError("a trial was run")

    def run(text: str) -> str:
        monkeypatch.setattr("epanns.sweeps.launchers.local.run_trial", never)
        with pytest.raises(ConfigError) as caught:
            run_experiment(parse_experiment(text, "t.toml"), tmp_path / "out")
        assert not (tmp_path / "out" / "trials").exists()
        return str(caught.value)

    return run


@pytest.fixture
def text(tiny_packs) -> str:
    return TEXT.format(**tiny_packs, criterion="l1")


LAYERS = 'layers = [["conv_block5", "conv_block6"]]'
RATIO = "ratio = [0.0, 0.5]"


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"conv_block6": "conv_block7"}, ["ratio 0.5 of conv_block5, conv_block7: unknown layer 'conv_block7' (did"]),
        ({LAYERS: 'layers = [["fc1"]]'}, ["ratio 0.5 of fc1: fc1 cannot be pruned: its outputs are the embedding"]),
        ({RATIO: 'budget = ["macs 0.001"]'}, ["macs 0.001 of conv_block5, conv_block6: a budget of ", "cannot be met"]),
        ({RATIO: 'budget = ["params 1G"]', LAYERS: ""}, ["params 1G: a budget of 1.0000 G parameters"]),
        ({RATIO: "ratio = [0.999]"}, ["ratio 0.999 removes all 31 channels of conv_block5.conv1: give at most"]),
        ({RATIO: "ratio = [0.001]"}, ["ratio 0.001 removes none of the 31 channels of conv_block5.conv1"]),
        (
            {RATIO: "ratio = [0.1]\nsteps = [1, 40]"},
            ["ratio 0.1 of conv_block5, conv_block6: round 1 of 40 would remove"],
        ),
        ({RATIO: "ratios = [{ conv_blck5 = 0.5 }]"}, ["ratios conv_blck5 0.5: unknown layer 'conv_blck5' (did you m"]),
        (
            {"calibration_clips = 24": "calibration_clips = 61"},
            ["calibration_clips=61: the training part has 60"],
        ),
        (
            {'"bn"': '"ls"', "calibration_clips = 24": "calibration_clips = 1"},
            ["calibration_clips=1: l1 and ls need at least 2"],
        ),
        (
            {'"bn"': '"fold"', "calibration_clips = 24": "calibration_clips = 1"},
            ["calibration_clips=1: l1 and fold need at least 2"],
        ),
        (
            {'"Cnn14_8k"': '"Cnn14_16k"'},
            ["[base 1] Cnn14_16k x 0.03: reads 16000 Hz, [data] has"],
        ),
        (
            {"iterations = 4": 'iterations = 4, task = "single-label"'},
            ["a single-label network needs exactly one for each"],
        ),
        (
            {RATIO: 'ratio = [0.5, 0.999]\nbudget = ["macs 0.001", "macs 0.5"]'},
            ["removes all 31 channels", "; [base 1] Cnn14_8k x 0.03: macs 0.001 of conv_block5, conv_block6: a budget"],
        ),
        (
            {"iterations = 2\n": 'iterations = 2\ntask = "single-label"\nteacher = "dense"\ndistil_weight = 0.5\n'},
            ["fine-tuning: the teacher Cnn14_8k is multi-label, the student single-label"],
        ),
    ],
)
def test_what_no_trial_can_do_is_refused_before_training(refused, text, changes, messages):
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    found = refused(text)
    for message in messages:
        assert message in found
    assert found.count(messages[0]) == 1, "each problem is reported once"


def test_specifications_are_checked_before_clips_are_packed(refused, text, tmp_path):
    text = text.replace('"packs"', SYNTHETIC).replace("seconds = 0.5", "seconds = 0.5", 1)
    for part in ("train", "val", "test"):
        line = next(line for line in text.splitlines() if line.startswith(f"{part} ="))
        text = text.replace(line, f'{part} = ["{part}"]')
    found = refused(text.replace("conv_block6", "conv_block9").replace("clips = 24", "clips = 25"))
    assert "unknown layer 'conv_block9'" in found and "calibration_clips=25: the training part has 24 clips" in found
    assert not (tmp_path / "out" / "data" / "packs").exists()


def test_a_checkpoint_must_fit_the_data(refused, text, tmp_path, tiny_packs):
    save_checkpoint(build_model("Cnn14", width=0.03, num_classes=4), tmp_path / "fast")
    save_checkpoint(build_model("Cnn14_8k", width=0.03, num_classes=5), tmp_path / "many")
    head, rest = text.split("[[base]]")
    grid = rest[rest.index("[grid]") :]
    bases = "".join(f'[[base]]\ncheckpoint = "{tmp_path / name}"\n' for name in ("fast", "many", "none"))
    assert "[base 3] checkpoint=" in (found := refused(head + bases + grid)) and "no such file or folder" in found
    found = refused(head + bases.rsplit("[[base]]", 1)[0] + grid)
    assert "[base 1] fast: reads 32000 Hz, [data] has sample_rate=8000; [base 2] many: Cnn14_8k and the " in found
    assert "have different classes (5 classes in the model, 4 in the pack)" in found


def test_clips_that_two_parts_share_are_refused(refused, text, tiny_packs):
    found = refused(text.replace(f'test = ["{tiny_packs["test"]}"]', f'test = ["{tiny_packs["train"]}/"]'))
    assert "60 of 60 test clips are training clips too" in found


def test_what_depends_on_the_network_is_checked_on_its_shape(refused, text):
    """YAMNet's batch norms have no scale, and its embedding shrinks with its last layer."""
    text = text.replace('model = "Cnn14_8k"\nwidth = 0.03', 'model = "YAMNet"\nwidth = 0.05')
    for part in ("train", "val", "test"):
        line = next(line for line in text.splitlines() if line.startswith(f"{part} ="))
        text = text.replace(line, f'{part} = ["{part}"]')
    text = text.replace('"packs"', SYNTHETIC).replace("8000", "16000").replace(LAYERS, 'layers = [["layer14"]]')
    found = refused(text.replace('["l1"]', '["bn"]'))
    assert "no batch norm with a scale follows it, so criterion 'bn' cannot rank it" in found
    found = refused(f'{text}teacher = "dense"\nfeature_weight = 0.5\n')
    assert "fine-tuning: feature_weight=0.5: the teacher's embedding has 51 values, the student's 25" in found


def test_widths_follow_from_the_shape_as_in_prune(tiny_packs):
    model = build_model("Cnn14_8k", width=0.03, labels=PackDataset([tiny_packs["train"]]).labels)
    for asked in (
        {"ratio": 0.5},
        {"ratio": 0.25, "layers": ["conv_block5"]},
        {"ratios": {"conv_block3": 0.25, "conv_block4.conv1": 0.5}},
        {"budget": Budget("macs", 0.5)},
        {"budget": Budget("params", 0.5), "layers": ["conv_block6"]},
    ):
        plan = plan_pruning(model, **asked)
        assert widths_after(model, PruningConfig.of(**asked)) == {
            layer: len(kept) for layer, kept in plan.kept_channels.items()
        }


def test_layers_default_to_those_of_prune(text):
    (trial,) = [
        trial
        for trial in parse_experiment(text.replace(LAYERS, ""), "t.toml").trials({}, str)
        if trial.config.get("criterion")
    ]
    assert "layers" not in trial.config
