"""Experiments: the grid, names that follow from content, every mistake named."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.atomic import sha256_of_json
from epanns.errors import ConfigError
from epanns.sweeps.experiment import load_experiment, parse_experiment
from epanns.training.config import PRESETS, read_training

CONTENT = {"train": "1", "val": "2", "test": "3"}
TEXT = """
name = "t"
seeds = [0, 1]
[data]
kind = "packs"
train = ["a"]
val = ["b"]
test = ["c"]
[[base]]
model = "Cnn6"
width = 0.1
training = { iterations = 5 }
[grid]
criterion = ["l1", "random"]
layers = [["conv_block3"], ["conv_block4"]]
ratio = [0.0, 0.5]
[[finetune]]
iterations = 3
"""


def trials_of(experiment, **content):
    return experiment.trials({**CONTENT, **content}, weights=lambda path: f"weights of {path}")


def ids_of(experiment, **content):
    return [trial.trial_id for trial in trials_of(experiment, **content)]


def test_grid_holds_every_combination_once_and_one_control_per_base():
    trials = trials_of(parse_experiment(TEXT, "t.toml"))
    bases = [trial for trial in trials if trial.base is None]
    controls = [trial for trial in trials if trial.base is not None and trial.config["ratio"] == 0]
    pruned = [trial for trial in trials if trial.config.get("ratio", 0) > 0]
    assert (len(bases), len(controls), len(pruned)) == (2, 2, 2 * 2 * 2)
    assert len({trial.trial_id for trial in trials}) == len(trials)
    assert {trial.base.trial_id for trial in pruned} == {trial.trial_id for trial in bases}
    assert all(trial.config["finetune"]["seed"] == trial.config["seed"] for trial in pruned + controls)


def test_a_grid_may_have_fine_tunings_and_seeds_of_its_own():
    text = (
        TEXT.replace("[grid]", "[[grid]]")
        + """
[[grid]]
ratio = [0.5]
recover = ["bn"]
seeds = [1]
[[grid.finetune]]
iterations = 7
[[grid.finetune]]
iterations = 8
"""
    )
    own = [trial for trial in trials_of(parse_experiment(text, "t.toml")) if trial.config.get("recover") == "bn"]
    assert [(trial.config["seed"], trial.config["finetune"]["iterations"]) for trial in own] == [(1, 7), (1, 8)]
    assert set(ids_of(parse_experiment(TEXT, "t.toml"))) < set(ids_of(parse_experiment(text, "t.toml")))
    for old, new, message in (
        ("seeds = [1]", "seeds = [2]", "[grid 2] seeds=[2]: 2 is none of the experiment's [0, 1]"),
        ("seeds = [1]", "seeds = [-1]", "[grid 2] seeds[0]=-1: must be a whole number >= 0"),
        ("iterations = 8", "iteration = 8", "[grid 2] training: unknown key 'iteration'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            parse_experiment(text.replace(old, new), "t.toml")


def test_a_teacher_makes_another_trial_and_only_of_what_is_fine_tuned():
    plain, taught = (
        trials_of(parse_experiment(TEXT + more, "t.toml"))
        for more in ("", 'teacher = "dense"\ndistil_weight = 0.5\nfeature_weight = 0.1\n')
    )
    assert [trial for trial in plain if trial.base is None] == [trial for trial in taught if trial.base is None]
    assert not {trial.trial_id for trial in plain if trial.base} & {trial.trial_id for trial in taught if trial.base}
    assert {trial.config.get("teacher") for trial in taught if trial.base} == {"dense"}
    assert not any("teacher" in trial.config for trial in plain)
    assert taught[-1].config["finetune"] == plain[-1].config["finetune"] | {"distil_weight": 0.5, "feature_weight": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "iterations = 3",
            'iterations = 3\nteacher = "dense"',
            "teacher without weight: set distil_weight or",
        ),
        (
            "iterations = 3",
            "iterations = 3\nfeature_weight = 1.0",
            "distil_weight and feature_weight need a teacher: g",
        ),
        (
            "iterations = 3",
            'iterations = 3\nteacher = "x"\ndistil_weight = 1.0',
            "teacher='x': must be 'dense', the tr",
        ),
        (
            "iterations = 5",
            "iterations = 5, distil_weight = 0.5",
            "base 1] distil_weight=0.5: a base has no teacher; di",
        ),
    ],
)
def test_teachers_and_weights_go_together(old, new, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_experiment(TEXT.replace(old, new), "t.toml")


def test_several_grids_are_the_trials_of_each_once():
    one, two = ("criterion = ['l1']\nratio = [0.25, 0.5]", "criterion = ['l1', 'random']\nratio = [0.5]")
    head = TEXT.split("[grid]")[0]
    alone = [ids_of(parse_experiment(f"{head}[grid]\n{grid}", "t.toml")) for grid in (one, two)]
    both = ids_of(parse_experiment(f"{head}[[grid]]\n{one}\n[[grid]]\n{two}", "t.toml"))
    assert (len(alone[0]), len(alone[1]), len(both)) == (6, 6, 8)  # two bases and, of each, l1 at 0.5 are in both
    assert set(both) == {*alone[0], *alone[1]}
    with pytest.raises(ConfigError, match=re.escape("[grid 2] ratio[0]=1: must be a number in [0, 1)")):
        parse_experiment(f"{head}[[grid]]\n{one}\n[[grid]]\nratio = [1]", "t.toml")


def test_a_budget_is_a_cell_beside_the_ratios():
    grid = "[grid]\nratio = [0.5]\nbudget = ['macs 0.25', 'params 20k']\n"
    trials = trials_of(parse_experiment(TEXT.split("[grid]")[0] + grid, "t.toml"))
    cuts = [(t.config.get("ratio"), t.config.get("budget")) for t in trials if t.base and t.config["seed"] == 0]
    assert cuts == [(0.5, None), (None, "macs 0.25"), (None, "params 20k")]
    for wrong in ("macs", "macs 25%", "latency 20ms", "0.25"):
        with pytest.raises(ConfigError, match=r"budget\[0\]=.*: must be kind \(params, macs, bytes\) and amount"):
            parse_experiment(TEXT.split("[grid]")[0] + f"[grid]\nbudget = ['{wrong}']\n", "t.toml")


def test_ratios_by_layer_name_their_layers_themselves():
    grid = "[grid]\nlayers = [['conv_block1'], ['conv_block2']]\nratios = [{ conv_block3 = 0.25, conv_block4 = 0.5 }]\n"
    trials = trials_of(parse_experiment(TEXT.split("[grid]")[0] + grid, "t.toml"))
    (config,) = [trial.config for trial in trials if trial.base and trial.config["seed"] == 0]
    assert config["ratios"] == {"conv_block3": 0.25, "conv_block4": 0.5}
    assert config["layers"] == ["conv_block3", "conv_block4"]
    for wrong in ("{ conv_block1 = 1.0 }", "{ conv_block1 = 0.0 }", "0.5"):
        with pytest.raises(ConfigError, match=r"ratios\[0\]=.*: must be a table of numbers in"):
            parse_experiment(TEXT.split("[grid]")[0] + f"[grid]\nratios = [{wrong}]\n", "t.toml")


def test_clips_change_the_trial_where_the_criterion_or_the_recovery_reads_them():
    head = TEXT.split("[grid]")[0] + "[grid]\nratio = [0.5]\ncriterion = ['l1', 'interpolative']\n"
    few, many = (trials_of(parse_experiment(f"{head}calibration_clips = {n}", "t.toml")) for n in (10, 20))
    seen = {trial.config.get("criterion"): trial.config.get("calibration_clips") for trial in few}
    assert seen == {None: None, "l1": None, "interpolative": 10}
    assert {t.trial_id for t in few} & {t.trial_id for t in many} == {
        t.trial_id for t in few if t.config.get("criterion") != "interpolative"
    }


def test_settings_of_the_recovery_are_part_of_a_trial_where_they_are_not_the_usual_ones():
    text = TEXT.replace("[grid]", "[grid]\nrecover = ['ls']")
    plain = ids_of(parse_experiment(text, "t.toml"))
    assert ids_of(parse_experiment(text.replace("recover =", "recovery = {}\nrecover ="), "t.toml")) == plain
    settings = text.replace("recover =", "recovery = { fit_to = 'current', ridge = 0.1 }\nrecover =")
    changed = [trial for trial in trials_of(parse_experiment(settings, "t.toml")) if trial.trial_id not in plain]
    assert {trial.config["ratio"] for trial in changed} == {0.5}
    assert all(trial.config["recovery"] == {"fit_to": "current", "ridge": 0.1} for trial in changed)


def test_without_finetuning_ratio_zero_is_the_base_itself():
    text = TEXT.split("[[finetune]]")[0]
    assert all(trial.config.get("ratio") != 0 for trial in trials_of(parse_experiment(text, "t.toml")))


def test_trial_id_is_the_hash_of_its_configuration_and_not_of_the_place_of_the_data():
    experiment = parse_experiment(TEXT, "t.toml")
    trials = trials_of(experiment)
    assert all(trial.trial_id == sha256_of_json(trial.config)[:12] for trial in trials)
    moved = replace(experiment, name="renamed", data=replace(experiment.data, root="/elsewhere", train=("d",)))
    assert ids_of(moved) == ids_of(experiment)
    slower = parse_experiment(TEXT.replace("iterations = 3", "iterations = 4"), "t.toml")
    assert set(ids_of(slower)) & set(ids_of(experiment)) == {t.trial_id for t in trials if t.base is None}


def test_other_clips_or_weights_are_other_trials():
    experiment = parse_experiment(TEXT, "t.toml")
    assert not set(ids_of(experiment)) & set(ids_of(experiment, test="4"))
    text = TEXT.replace('model = "Cnn6"\nwidth = 0.1\ntraining = { iterations = 5 }', 'checkpoint = "runs/base"')
    base = trials_of(parse_experiment(text, "t.toml"))[0]
    assert base.checkpoint == "runs/base"
    assert base.config["checkpoint_sha256"] == "weights of runs/base"
    assert "checkpoint" not in base.config


def test_a_checkpoint_is_one_base_that_every_seed_prunes():
    text = TEXT.replace('model = "Cnn6"\nwidth = 0.1\ntraining = { iterations = 5 }', 'checkpoint = "runs/base"')
    trials = trials_of(parse_experiment(text, "t.toml"))
    (base,) = [trial for trial in trials if trial.base is None]
    assert {trial.config["seed"] for trial in trials if trial.base is base} == {0, 1}


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "experiments").glob("*.toml")), ids=str)
def test_committed_experiments_load_and_open_with_their_command(path):
    assert trials_of(load_experiment(path))
    assert path.read_text().startswith("# epanns sweep experiments/")


def test_a_preset_is_the_trial_of_its_settings():
    """A key beside it beats it; what has the same settings has the same name."""
    named = TEXT.replace("training = { iterations = 5 }", 'training = { preset = "panns", iterations = 5 }')
    named = named.replace("[[finetune]]\niterations = 3", '[[finetune]]\npreset = "short"\nbatch_size = 4')
    trials = trials_of(parse_experiment(named, "t.toml"))
    assert trials[0].config["training"] == {**read_training({"preset": "panns"}).to_dict(), "iterations": 5}
    finetunes = [trial.config["finetune"] for trial in trials if "finetune" in trial.config]
    short = {**read_training({"preset": "short"}).to_dict(), "batch_size": 4}
    assert finetunes and all(each == {**short, "seed": each["seed"]} for each in finetunes)
    spelled = named.replace(
        'preset = "short"\n', "".join(f"{k} = {v!r}\n" for k, v in PRESETS["short"].settings.items())
    )
    assert ids_of(parse_experiment(spelled, "t.toml")) == [trial.trial_id for trial in trials]


def test_a_network_to_compare_with_is_trained_and_not_pruned():
    rival = '[[base]]\nmodel = "Cnn10"\nprune = false\n'
    alone, both = (
        trials_of(parse_experiment(text, "t.toml")) for text in (TEXT, TEXT.replace("[grid]", f"{rival}[grid]"))
    )
    more = [trial for trial in both if trial.trial_id not in {each.trial_id for each in alone}]
    assert [(trial.config["kind"], trial.config["model"], trial.config["seed"]) for trial in more] == [
        ("base", "Cnn10", 0),
        ("base", "Cnn10", 1),
    ]


def test_a_network_that_is_given_twice_is_refused():
    again = TEXT.split("[[base]]")[1].split("[grid]")[0] + 'name = "again"\nprune = false\n'
    with pytest.raises(
        ConfigError, match=re.escape("t.toml: [base 2] is the network of [base 1]: its trials would be")
    ):
        parse_experiment(TEXT.replace("[grid]", f"[[base]]{again}[grid]"), "t.toml")


def test_an_experiment_may_be_of_bases_alone():
    alone = TEXT.split("[grid]")[0]
    assert [trial.config["kind"] for trial in trials_of(parse_experiment(alone, "t.toml"))] == ["base", "base"]
    with pytest.raises(ConfigError, match=re.escape("[finetune] there is nothing to fine-tune: give a [grid] too")):
        parse_experiment(alone + "[[finetune]]\niterations = 3\n", "t.toml")
    with pytest.raises(ConfigError, match=re.escape("t.toml: finetune[0]=3: must be a table")):
        parse_experiment("finetune = [3]\n" + alone, "t.toml")


def test_how_clips_are_scored_is_part_of_a_trial_where_it_is_said():
    said = TEXT.replace("[grid]", "[evaluation]\nwindow = 1\nhop = 0.5\n[grid]")
    whole = TEXT.replace("[grid]", "[evaluation]\n[grid]")
    assert ids_of(parse_experiment(TEXT, "t.toml")) == ids_of(parse_experiment(whole, "t.toml"))
    assert not set(ids_of(parse_experiment(said, "t.toml"))) & set(ids_of(parse_experiment(TEXT, "t.toml")))
    base, *_ = trials_of(parse_experiment(said, "t.toml"))
    assert base.config["evaluation"] == {"window": 1.0, "hop": 0.5, "aggregate": "mean_prob"}


def test_a_yamnet_is_identified_by_its_weights_and_frozen_by_default():
    text = TEXT.replace('model = "Cnn6"\nwidth = 0.1', 'model = "LEAN"\nyamnet = "here.npz"')
    base = trials_of(parse_experiment(text, "t.toml"))[0]
    assert (base.config["yamnet_sha256"], base.yamnet) == ("weights of here.npz", "here.npz")
    assert base.config["training"]["freeze_yamnet"]
    free = trials_of(
        parse_experiment(text.replace("iterations = 5", "iterations = 5, freeze_yamnet = false"), "t.toml")
    )
    assert "freeze_yamnet" not in free[0].config["training"]


def test_quickstart_trains_prunes_recovers_and_finetunes():
    path = Path(__file__).parents[2] / "epanns" / "sweeps" / "quickstart.toml"
    trials = trials_of(load_experiment(path))
    assert [trial.config.get("ratio") for trial in trials] == [None, 0.0, 0.25, 0.5, 0.75]
    assert {trial.config.get("recover") for trial in trials[2:]} == {"bn"}
    assert all("finetune" in trial.config for trial in trials[1:])


def test_every_mistake_is_named_at_once():
    text = (
        TEXT.replace("width = 0.1", "witdh = 0.1")
        .replace('kind = "packs"', 'kind = "pack"')
        .replace("ratio = [0.0, 0.5]", "ratio = [0.0, 1.0]")
        .replace("iterations = 3", "iterations = 0\nseed = 3")
        .replace("seeds = [0, 1]", "seeds = [-1]")
    )
    with pytest.raises(ConfigError) as caught:
        parse_experiment(text, "t.toml")
    for message in (
        "t.toml: seeds[0]=-1: must be a whole number >= 0",
        "[data] kind='pack' (did you mean 'packs'?): must be one of esc50, folder, audioset, fsd50k, ",
        "[grid] ratio[1]=1.0: must be a number in [0, 1)",
        "[base 1] unknown key 'witdh' (did you mean 'width'?)",
        "[finetune 1] seed does not go into a training table: list seeds = [...] at the top",
    ):
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "t"', "", "t.toml: missing key 'name'"),
        ('test = ["c"]', 'test = ["a"]', "a is used twice among train, val and test: that is a leak"),
        ('model = "Cnn6"', "", "[base 1] give either model (and training) or checkpoint"),
        ('model = "Cnn6"', 'checkpoint = "x"', "[base 1] training, width and yamnet do not go with checkpoint"),
        ("training = { iterations = 5 }", "training = { iteration = 5 }", "unknown key 'iteration'"),
        (
            "training = { iterations = 5 }",
            "training = { preset = 'long' }",
            "training: preset='long': must be one of",
        ),
        ('kind = "packs"', 'kind = "esc50"', "root='': esc50 needs the folder of the data set"),
        (
            "layers = [[",
            "recover = ['bm']\nlayers = [[",
            "[grid] recover[0]='bm': must be one of none, bn, ls, ls+bn, grail, fold, a",
        ),
        ("[grid]", "[grid]\nrecovery = { rigde = 1 }", "[grid] recovery: unknown key 'rigde' (did you mean 'ridge'?)"),
        ("[grid]", "[grid]\nrecovery = { ridge = 0 }", "recovery: ridge=0: must be a number above 0"),
        (
            "[grid]",
            "[grid]\nrecovery = { fit_to = 'dens' }",
            "fit_to='dens' (did you mean 'dense'?): must be one of",
        ),
        ("[grid]", "[grid", "cannot be read as TOML"),
        ("[grid]", "[evaluation]\nhop = 0.5\n[grid]", "[evaluation] hop=0.5 without a window"),
        ("[grid]", "[evaluation]\nwindow = '1'\n[grid]", "[evaluation] window='1': must be a number of seconds"),
        ("[grid]", "[evaluation]\nwidnow = 1\n[grid]", "unknown key 'widnow' (did you mean 'window'?)"),
        ("width = 0.1", "prune = 0", "[base 1] prune=0: must be true or false"),
        ("width = 0.1", "prune = false", "[grid] there is no base to prune: all have prune = false"),
        ("width = 0.1", "width = 0.1\nyamnet = 'y'", "width=0.1 with yamnet: the body has its own widths"),
        ("iterations = 5", "iterations = 5, freeze_yamnet = true", "freeze_yamnet without yamnet: a body of random"),
        (
            "width = 0.1",
            "width = '1'\nyamnet = 3",
            "[base 1] width='1': must be a number > 0; [base 1] yamnet=3: must",
        ),
        ("training = { iterations = 5 }", "training = 3", "[base 1] training=3: must be a table"),
        ('model = "Cnn6"', "model = 3", "[base 1] model=3: must be text"),
        ('model = "Cnn6"', 'model = "Cnn66"', "Cnn66"),
        (
            "iterations = 3",
            "iterations = 3\nfreeze_yamnet = true",
            "['Cnn6'] is not built on YAMNet's body",
        ),
        ("width = 0.1", "yamnet = 'y'", "yamnet='y': Cnn6 is not built on YAMNet's body"),
    ],
)
def test_mistakes_are_explained(old, new, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_experiment(TEXT.replace(old, new), "t.toml")


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match="nothing.toml: cannot be read"):
        load_experiment(Path("nothing.toml"))
