"""Distillation: teacher and student read the same input, and the student approaches the unchanged teacher."""

import copy
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.clip_random import clip_draws
from epanns.clip_scores import write_clip_scores
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, Interrupted, OutputError
from epanns.evaluation.predict import predict
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.provenance import Provenance
from epanns.models.zoo import FRONT_ENDS, ZOO, build_model
from epanns.pruning.prune import prune
from epanns.training import learner as learner_module
from epanns.training.config import TrainingConfig
from epanns.training.distillation import DistillationTarget, relative_distance, teacher_of, teacher_sha256
from epanns.training.finetune import finetune
from epanns.training.learner import Learner
from epanns.training.loop import RunOptions
from epanns.training.teacher_scores import read_teacher_scores
from epanns.training.validation import Validation
from tests.builders import tensors_of
from tests.families import at_8k

CONFIG = TrainingConfig(iterations=4, batch_size=4, learning_rate=5e-3, validate_every=2, distil_weight=0.5)
LAST = Validation(lambda model: {"mAP": 0.5}, {})


@pytest.fixture
def without_dropout(monkeypatch):
    """Train in evaluation mode but for SpecAugment: two equal networks differ by their input alone."""

    def set_mode(model, spec_augment):
        model.eval()
        model.spec_augmenter.train(spec_augment)

    monkeypatch.setattr(learner_module, "set_learning_mode", set_mode)


def learner_of(student, teacher, config) -> Learner:
    return Learner(student, config, teacher_of(student, teacher, config))


def batch_of(train: PackDataset, config: TrainingConfig):
    return train.__getitems__(range(config.drawn_clips))


def weights_of(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def values_of(model) -> dict[str, torch.Tensor]:
    return tensors_of(model)


def count_up() -> Validation:
    calls = iter(range(1, 1000))
    return Validation(lambda model: {"mAP": next(calls) / 1000}, {})


@given(seed=st.integers(0, 99), share=st.floats(0, 1), feature_weight=st.floats(0, 9), activation=st.sampled_from("ab"))
def test_the_distillation_loss_equals_its_definition(seed, share, feature_weight, activation):
    """Twice, class by class: with sigmoids the cross-entropy of two outcomes, with a softmax that of all classes."""
    draw = np.random.default_rng(seed)
    logits, embedding, wanted = draw.normal(size=(3, 4)), draw.normal(size=(3, 6)), draw.normal(size=(3, 6))
    scores = draw.dirichlet(np.ones(4), size=3)
    if activation == "a":
        p = 1 / (1 + np.exp(-logits))
        of_scores = -(scores * np.log(p) + (1 - scores) * np.log(1 - p)).mean()
    else:
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        of_scores = -(scores * np.log(p)).sum(axis=1).mean()
    distance = np.mean([1 - 2 * e @ w / (e @ e + w @ w) for e, w in zip(embedding, wanted, strict=True)])
    tensors = [torch.tensor(each, dtype=torch.float32) for each in (logits, embedding, scores, wanted)]
    distilled = DistillationTarget(
        tensors[2], tensors[3], {"a": "sigmoid", "b": "softmax"}[activation], share, feature_weight
    )
    loss = distilled.loss(torch.tensor(0.7), {"clipwise_logits": tensors[0], "embedding": tensors[1]})
    expected = (1 - share) * 0.7 + share * of_scores + feature_weight * distance
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_the_distance_is_scale_free_and_the_mean_over_parts_of_a_batch():
    embedding, wanted = torch.rand(6, 5), torch.rand(6, 5)
    whole = relative_distance(embedding, wanted)
    assert relative_distance(100 * embedding, 100 * wanted) == pytest.approx(float(whole), rel=1e-5)
    parts = [relative_distance(*pair) for pair in zip(embedding.split(2), wanted.split(2), strict=True)]
    assert float(sum(parts)) / 3 == pytest.approx(float(whole), rel=1e-5)
    assert (relative_distance(wanted, wanted), relative_distance(0 * wanted, wanted)) == (0, 1)
    silent = (embedding * 0).requires_grad_()
    relative_distance(silent, embedding * 0).backward()  # a clip of which the teacher makes nothing
    assert torch.equal(silent.grad, torch.zeros(6, 5))


@pytest.mark.parametrize("settings", [{}, {"mixup_alpha": 0.0}, {"spec_augment": False}, {"accumulate": 2}], ids=str)
def test_the_teacher_reads_the_stripes_and_mixtures_of_the_student(make_model, train, without_dropout, settings):
    student, heard = make_model(), {}
    teacher = copy.deepcopy(student)
    for name, model in (("student", student), ("teacher", teacher)):
        begin = model.begin

        def hear(inputs, mixup_lambda=None, *, begin=begin, name=name):
            features = begin(inputs, mixup_lambda)
            heard.setdefault(name, []).append(features[0].detach().clone())
            return features

        model.begin = hear
    config = replace(CONFIG, **settings)
    learner_of(student, teacher, config).step(batch_of(train, config), 3)
    assert len(heard["student"]) == config.accumulate
    assert all(torch.equal(*pair) for pair in zip(heard["student"], heard["teacher"], strict=True))
    silent = (heard["student"][0] == 0).flatten(start_dim=2).float().mean(dim=2)
    assert bool((silent > 0).any()) == config.spec_augment


@pytest.mark.parametrize("settings", [{}, {"feature_weight": 3.0}, {"head": "decision_avg"}, {"task": "single-label"}])
def test_a_copy_of_the_teacher_has_no_gradient(make_model, train, without_dropout, settings):
    """Cross-entropy is least, and its gradient nothing, where the student's scores are the teacher's."""
    student = make_model(head=settings.get("head", "clip"))
    torch.nn.init.normal_(student.fc_audioset.weight)
    student.set_task(settings.get("task", "multi-label"))
    config = replace(CONFIG, distil_weight=1.0, feature_weight=settings.get("feature_weight", 0.0))
    copied, other = copy.deepcopy(student), copy.deepcopy(student)
    torch.nn.init.normal_(other.fc1.weight)
    norms = [
        learner_of(student, model, config).step(batch_of(train, config), 0).gradient_norm for model in (copied, other)
    ]
    assert norms[0] < 1e-5 * norms[1]


def test_a_teacher_changes_no_random_number_of_the_student(make_model, train, monkeypatch):
    """With a teacher that is not counted the student takes the very step it takes alone."""
    alone, taught = learner_of(make_model(), None, replace(CONFIG, distil_weight=0.0)), None
    alone.step(batch_of(train, CONFIG), 1)
    monkeypatch.setattr(DistillationTarget, "loss", lambda self, of_labels, output: of_labels)
    taught = learner_of(make_model(), make_model(seed=1), CONFIG)
    taught.step(batch_of(train, CONFIG), 1)
    expected = alone.model.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in taught.model.state_dict().items())


@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16", "feature_weight": 1.0, "ema_decay": 0.9}], ids=str)
def test_a_run_stopped_at_any_step_ends_with_the_same_bytes_and_the_teacher_as_it_was(
    tmp_path, make_model, train, settings
):
    config, teacher = replace(CONFIG, **settings), make_model(seed=1)
    before, modes = values_of(teacher), [module.training for module in teacher.modules()]
    finetune(make_model(), train, config, tmp_path / "whole", validation=count_up(), teacher=teacher)
    for last in (1, 2, 3):

        def stop(state, loss, last=last):
            if state.step == last:
                signal.raise_signal(signal.SIGTERM)

        out, validation = tmp_path / f"stopped-{last}", count_up()
        told = {"validation": validation, "teacher": teacher}
        with pytest.raises(Interrupted):
            finetune(make_model(), train, config, out, options=RunOptions(on_step=stop), **told)
        torch.rand(last)  # what happens between must not matter
        finetune(make_model(), train, config, out, **told)
        assert weights_of(out) == weights_of(tmp_path / "whole")
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert [module.training for module in teacher.modules()] == modes
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_pruned_student_approaches_its_teacher_without_labels(make_model, train, without_dropout):
    config = replace(CONFIG, batch_size=8, learning_rate=2e-2, distil_weight=1.0, feature_weight=1.0)
    batch, teacher = batch_of(train, config), make_model()
    torch.nn.init.normal_(teacher.fc_audioset.weight)  # scores that differ from clip to clip, as do those of
    for module in teacher.modules():  # a network whose batch norms have seen the clips
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    teacher(batch.float_waveform())
    student = prune(teacher.eval(), ratio=0.5)[0]

    def distances():
        with torch.no_grad():
            ours, theirs = (model.eval()(batch.float_waveform()) for model in (student, teacher))
        scores = (ours["clipwise_output"] - theirs["clipwise_output"]).abs().mean()
        return float(scores), float(relative_distance(ours["embedding"], theirs["embedding"]))

    before, learner = distances(), learner_of(student, teacher, config)
    for step in range(20):
        learner.step(batch, step)
    after = distances()
    assert all(later < 0.7 * sooner for sooner, later in zip(before, after, strict=True)), (before, after)


def test_the_classes_of_the_teacher_are_put_in_the_order_of_the_student(make_model, train):
    order = [2, 0, 3, 1]
    student, teacher = make_model(), make_model(seed=1)
    names = [train.labels.names[index].replace("_", " ").upper() for index in order]
    shuffled = make_model(seed=1, labels=LabelSet.of(names))
    with torch.no_grad():
        for parameter, same in zip(shuffled.fc_audioset.parameters(), teacher.fc_audioset.parameters(), strict=True):
            parameter.copy_(same[order])
    waveform = batch_of(train, CONFIG).float_waveform()
    plain, mapped = (teacher_of(student, model, CONFIG).target_of(waveform, None) for model in (teacher, shuffled))
    assert torch.allclose(plain.scores, mapped.scores, atol=1e-7)


def test_the_teacher_has_a_precision_of_its_own(make_model, train):
    seen = []
    teacher = make_model(seed=1)
    teacher.conv_block1.conv1.register_forward_hook(lambda _, given, made: seen.append(made.dtype))
    for own, students in ((None, "bfloat16"), ("float32", "bfloat16"), ("bfloat16", "float32"), (None, "float32")):
        config = replace(CONFIG, precision=students, teacher_precision=own)
        distilled = teacher_of(make_model(), teacher, config).target_of(batch_of(train, config).float_waveform(), None)
        assert (distilled.scores.dtype, distilled.embedding.dtype) == (torch.float32, torch.float32)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("name", ["DaiNet19", "Wavegram_Cnn14", "MobileNetV2", "ResNet22"])
def test_every_family_teaches_its_pruned_self(train, name):
    teacher = build_model(replace(ZOO[name].scaled(1 / 16), front_end=FRONT_ENDS[8_000]), labels=train.labels)
    student = prune(teacher.eval(), ratio=0.25)[0]
    config = replace(CONFIG, feature_weight=0.5)
    outcome = learner_of(student, teacher, config).step(batch_of(train, config), 0)
    assert outcome.gradient_norm > 0 and not outcome.skipped


@pytest.mark.parametrize("name", ["YAMNet", "YAMNet_linear"])
def test_a_student_whose_embedding_was_cut_is_compared_on_the_kept_channels(train, name):
    """Dropping channels that the classifier does not read moves nothing: the distance of the embeddings is 0."""
    spec = at_8k(ZOO[name].scaled(1 / 32))
    teacher = build_model(spec, labels=train.labels).eval()
    dead = teacher.layer_names[-1]
    student, plan = prune(teacher, ratio=0.5, layers=[dead])
    with torch.no_grad():
        teacher.fc_audioset.weight[:, sorted({*range(spec.embedding_size)} - {*plan.kept_channels[dead]})] = 0
    config = replace(CONFIG, distil_weight=0.0, feature_weight=1.0, spec_augment=False)
    waveform = batch_of(train, config).float_waveform()
    distilled = teacher_of(student, teacher, config).target_of(waveform, None)
    assert distilled.embedding.shape[1] == student.spec.embedding_size < teacher.spec.embedding_size
    with torch.no_grad():
        assert float(distilled.loss(torch.tensor(0.0), student.eval()(waveform))) == pytest.approx(0, abs=1e-9)
    outcome = learner_of(student, teacher, config).step(batch_of(train, config), 0)
    assert not outcome.skipped
    student.provenance = Provenance()
    with pytest.raises(ConfigError, match="the student's 16, and no pruning plan relates them; leave it out, or give"):
        teacher_of(student, teacher, config)
    assert teacher_of(student, teacher, replace(config, distil_weight=0.5, feature_weight=0.0)) is not None


def test_a_student_on_the_waveform_is_taught_without_stripes(make_model, train):
    student = build_model(replace(ZOO["DaiNet19"].scaled(1 / 32), front_end=FRONT_ENDS[8_000]), labels=train.labels)
    teacher, waveform = make_model(), batch_of(train, CONFIG).float_waveform()
    with torch.no_grad():
        expected = teacher.eval()(waveform)["clipwise_output"]
    with clip_draws(range(len(waveform))):
        assert torch.allclose(
            teacher_of(student, teacher, CONFIG).target_of(waveform, None).scores, expected, atol=1e-6
        )


def test_a_teacher_with_another_front_end_reads_the_input_without_stripes(make_model, tiny_spec, train):
    teacher, waveform = make_model(front_end=replace(tiny_spec.front_end, fmin=10)), batch_of(train, CONFIG)
    with torch.no_grad():
        expected = teacher.eval()(waveform.float_waveform())["clipwise_output"]
    with clip_draws(range(len(waveform))):
        found = teacher_of(make_model(), teacher, CONFIG).target_of(waveform.float_waveform(), None)
    assert CONFIG.spec_augment and torch.allclose(found.scores, expected, atol=1e-6)


def write_scores(path, teacher, train) -> Path:
    """Write the teacher's scores of all clips as `epanns evaluate` does."""
    predictions = predict(teacher, train)
    write_clip_scores(path, predictions.to_clip_scores(train.labels))
    return path


@pytest.mark.parametrize("mixes", [True, False])
def test_stored_scores_are_mixed_as_the_labels_in_the_order_of_the_student(tmp_path, make_model, train, mixes):
    teacher, batch = make_model(seed=1), batch_of(train, CONFIG)
    backwards = train.with_labels(LabelSet.of([*reversed(train.labels.names)]))
    teacher.labels = backwards.labels
    known = read_teacher_scores(write_scores(tmp_path / "scores.npz", teacher, backwards))
    with torch.no_grad():
        scores = teacher.eval()(batch.float_waveform())["clipwise_output"].flip(1)
    weight = torch.rand(len(batch) // 2) if mixes else None
    found = teacher_of(make_model(), known, CONFIG, train).target_of(torch.zeros(0), weight, batch.clip_ids)
    if weight is not None:
        pairs = zip(weight, scores[::2], scores[1::2], strict=True)
        scores = torch.stack([w * first + (1 - w) * second for w, first, second in pairs])
    assert torch.allclose(found.scores, scores, atol=1e-6)


def test_a_run_with_stored_scores_resumes_to_the_same_bytes_and_names_them(tmp_path, make_model, train):
    changes = {"shift": True, "gain_decibels": 3.0, "weight_decay": 0.01, "crop_seconds": 0.5}
    known = read_teacher_scores(write_scores(tmp_path / "scores.npz", make_model(seed=1), train))
    given = {"teacher": known, "config": replace(CONFIG, **changes)}
    finetune(make_model(), train, out=tmp_path / "whole", validation=count_up(), **given)

    def stop(state, loss):
        if state.step == 3:
            signal.raise_signal(signal.SIGTERM)

    given |= {"out": tmp_path / "run", "validation": count_up()}
    with pytest.raises(Interrupted):
        finetune(make_model(), train, options=RunOptions(on_step=stop), **given)
    finetune(make_model(), train, **given)
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    (step,) = load(tmp_path / "run").provenance.recipe
    assert step.settings["teacher_sha256"] == known.sha256


def test_stored_scores_that_do_not_fit_are_refused(tmp_path, make_model, train, tiny_packs):
    path = write_scores(tmp_path / "scores.npz", make_model(seed=1), train)
    known = read_teacher_scores(path)
    with pytest.raises(
        ConfigError, match="feature_weight=1: .*scores.npz holds scores and no embeddings: give the tea"
    ):
        teacher_of(make_model(), known, replace(CONFIG, feature_weight=1.0))
    with pytest.raises(
        ConfigError, match="teacher_precision=float32: .*holds scores, and no teacher is passed through"
    ):
        teacher_of(make_model(), known, replace(CONFIG, teacher_precision="float32"))
    with pytest.raises(
        ConfigError, match=r"scores.npz has other classes \(4, the student 5, and lacks 'more'\): fine-"
    ):
        teacher_of(make_model(num_classes=5, labels=LabelSet.of([*train.labels.names, "more"])), known, CONFIG)
    single = make_model()
    single.set_task("single-label")
    with pytest.raises(
        ConfigError, match="holds scores of several classes of a clip, the student is single-label: give"
    ):
        teacher_of(single, known, CONFIG)
    others = PackDataset([tiny_packs["val"]])
    with pytest.raises(
        ConfigError, match=r"scores.npz, lack (\d+) of \1 training clips, first '.*': score all of them"
    ):
        teacher_of(make_model(), known, CONFIG, others)


def test_the_teacher_is_part_of_the_identity_and_of_the_recipe(tmp_path, make_model, train):
    save_checkpoint(make_model(seed=1), tmp_path / "teacher")
    teacher = load(tmp_path / "teacher")
    finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up(), teacher=teacher)
    (step,) = load(tmp_path / "run").provenance.recipe
    assert step.settings["teacher_sha256"] == teacher.provenance.sha256 == teacher_sha256(teacher)
    assert f"taught by {teacher_sha256(teacher)[:12]} (distil weight 0.5), best step 4" in step.describe()
    assert f"taught by {teacher_sha256(teacher)[:12]}" in (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(OutputError, match=f"holds a run with teacher_sha256='{teacher_sha256(teacher)}', not"):
        finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up(), teacher=make_model(seed=2))
    assert teacher_sha256(make_model(seed=2)) != teacher_sha256(make_model(seed=3))
    changed, _ = prune(teacher, ratio=0.5)
    assert changed.provenance.sha256 == teacher.provenance.sha256 != teacher_sha256(changed)


def test_teachers_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, make_model, tiny_spec, train):
    front_end = tiny_spec.front_end
    more = LabelSet.of([*train.labels.names, "more"])
    renamed = LabelSet.of(["other", *train.labels.names[1:]])
    single, same = make_model(seed=1), make_model()
    single.set_task("single-label")
    name = re.escape(repr(train.labels.names[0]))
    refused = [
        (None, {}, r"distil_weight=0.5 without a teacher: give one \(--teacher CKPT\), or leave it out"),
        (None, {"distil_weight": 0.0, "feature_weight": 0.1}, "feature_weight=0.1 without a teacher"),
        (
            make_model(seed=1),
            {"distil_weight": 0.0},
            "teacher without weight: set distil_weight or feature_weight above 0, or remove --teacher",
        ),
        (same, {}, "teacher and student are one network: load the teacher a second time"),
        (make_model(front_end=replace(front_end, sample_rate=16_000)), {}, "reads 16000 Hz, the student 8000 Hz: give"),
        (single, {}, "the teacher Cnn14 is single-label, the student multi-label: give a teacher of the student's"),
        (make_model(num_classes=5, labels=more), {}, r"has other classes \(5, the student 4\): fine-tune it on"),
        (make_model(labels=renamed), {}, rf"has other classes \(4, the student 4, and lacks {name}\): fine-tune"),
        (make_model(embedding_size=8), {"feature_weight": 1.0}, "=1: the teacher's embedding has 8 values, the stud"),
    ]
    for teacher, settings, message in refused:
        student = same if teacher is same else make_model()
        with pytest.raises(ConfigError, match=message) as caught:
            finetune(student, train, replace(CONFIG, **settings), tmp_path / "run", validation=LAST, teacher=teacher)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distil_weight": 1.1}, r"distil_weight=1.1: must be a number in \[0, 1\]: 0 for the labels alone, 1 for"),
        ({"feature_weight": -1.0}, "feature_weight=-1.0: must be a finite number >= 0; 0 ignores embeddings"),
        ({"teacher_precision": "float64"}, "teacher_precision='float64'.*: must be one of float32, bfloat16"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings)
    assert "teacher_precision" not in CONFIG.to_dict()


def test_a_teacher_precision_without_a_teacher_is_refused(make_model):
    with pytest.raises(
        ConfigError, match=r"teacher_precision=bfloat16 without a teacher: give one \(--teacher CKPT\), or"
    ):
        teacher_of(make_model(), None, TrainingConfig(teacher_precision="bfloat16"))
