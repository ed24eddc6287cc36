"""Distillation: a student learns from the labels and from a teacher's outputs for the same input.

Crops, shifts, gains and mixup pairs are those of the student, and SpecAugment's stripes too if the teacher has the
student's front end; a teacher with another front end reads the input without stripes::

    loss = (1 - distil_weight) * L(logits, labels) + distil_weight * L(logits, teacher's scores)
         + feature_weight * D(embedding, teacher's embedding)

L is the loss of the student's task: binary cross-entropy of sigmoids, or cross-entropy of a softmax. The teacher scores
the mixed input, so its scores are the targets and are not mixed; scores from a file (`TeacherScores`) are those of
whole clips and are mixed. D is `relative_distance` of the embeddings behind `fc1`, whose size does not change when
layers are pruned. If the embedding is the channels of a layer, the channels that were kept are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError
from epanns.labels import LabelSet, same_classes
from epanns.models.layers.mixup import mix_target
from epanns.models.layers.pooling import ModelOutput, probabilities_of
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.pruning.embedding_channels import Places, shared_channels
from epanns.seeding import random_state_kept
from epanns.training.config import TEACHER_WEIGHTS, TrainingConfig
from epanns.training.losses import LOSSES
from epanns.training.teacher_scores import TeacherScores


@dataclass(frozen=True)
class DistillationTarget:
    """The teacher's outputs for a batch.

    Attributes:
        scores: ``(batch, classes)`` float32 in [0, 1], in the order of the student's classes.
        embedding: ``(batch, channels)`` float32: the channels that the student's embedding has too.
        activation: Activation of the student, which decides the loss.
        distil_weight: Weight of the loss on the teacher's scores; the loss on the labels has the rest.
        feature_weight: Weight of the distance of the embeddings.
        places: Indices of the compared channels in the student's embedding; by default all.
    """

    scores: Tensor
    embedding: Tensor
    activation: str
    distil_weight: float
    feature_weight: float
    places: Places = field(default_factory=lambda: slice(None))

    def loss(self, of_labels: Tensor, output: ModelOutput) -> Tensor:
        """Return the total loss of the student, given its loss on the labels and its output in training mode."""
        of_scores = LOSSES[self.activation](output["clipwise_logits"].float(), self.scores)
        loss = (1 - self.distil_weight) * of_labels + self.distil_weight * of_scores
        if not self.feature_weight:
            return loss
        embedding = output.get("hidden", output["embedding"]).float()
        return loss + self.feature_weight * relative_distance(embedding[:, self.places], self.embedding)


class Teacher:
    """A network whose outputs a student imitates; its weights do not change."""

    def __init__(self, network: Tagger, student: Tagger, config: TrainingConfig) -> None:
        """Use `network` as the teacher of `student`; it is moved to the student's device.

        Raises:
            ConfigError: With the first reason why one network cannot teach the other.
        """
        self._compared = shared_channels(student, network)
        ours, theirs = student.spec, network.spec
        has_same_front_end = theirs.reads_logmel and theirs.front_end == ours.front_end
        problems = {
            "teacher and student are one network: load the teacher a second time": network is student,
            f"the teacher {theirs.name} reads {theirs.front_end.sample_rate} Hz, the student "
            f"{ours.front_end.sample_rate} Hz: give a teacher of the student's rate": (
                theirs.front_end.sample_rate != ours.front_end.sample_rate
            ),
            f"the teacher {theirs.name} is {theirs.task}, the student {ours.task}: give a teacher of the student's "
            "task": theirs.activation != ours.activation,
            f"feature_weight={config.feature_weight:g}: the teacher's embedding has {theirs.embedding_size} values, "
            f"the student's {ours.embedding_size}, and no pruning plan relates them; leave it out, or give a teacher "
            "with an embedding of this size, or the network that the student was cut from": (
                config.feature_weight > 0 and not self._compared.channels
            ),
        }
        for problem, holds in problems.items():
            if holds:
                raise ConfigError(problem)
        self._order = _order_of_classes(f"the teacher {theirs.name}", network.labels, student.labels)
        self._network = network.to(next(student.parameters()).device)
        self._network.to(memory_format=torch.channels_last)
        self._activation, self._config = student.spec.activation, config
        # A student on the waveform has no stripes; stripes of one front end mean nothing in another.
        self._masks = config.spec_augment and ours.reads_logmel and has_same_front_end

    @torch.no_grad()
    def target_of(
        self, waveform: Tensor, mixup_lambda: Tensor | None, clip_ids: Sequence[str] = ()
    ) -> DistillationTarget:
        """Return the teacher's outputs for a batch, before the student's forward pass.

        The teacher is in evaluation mode but for SpecAugment, whose stripes are the student's: those of
        `epanns.clip_random.clip_draws` or, outside it, the next of torch's generator, whose state is restored.
        """
        network, config, device = self._network, self._config, waveform.device
        in_bfloat16 = (config.teacher_precision or config.precision) == "bfloat16"
        with random_state_kept(device), evaluation_mode(network):
            network.spec_augmenter.train(self._masks)
            with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
                output = network(waveform, mixup_lambda)
        scores = probabilities_of(output["clipwise_logits"].float(), self._activation)[:, self._order]
        weights = config.distil_weight, config.feature_weight
        embedding = output["embedding"].float()[:, self._compared.teacher]
        return DistillationTarget(scores, embedding, self._activation, *weights, self._compared.student)


class ScoresAsTeacher:
    """Scores of whole training clips that a student imitates, mixed as its labels."""

    def __init__(self, known: TeacherScores, student: Tagger, config: TrainingConfig) -> None:
        """Use scores as the teacher of `student`, on its device.

        Raises:
            ConfigError: If the scores have other classes, or the settings need a network.
        """
        order = _order_of_classes(known.name, known.labels, student.labels)
        sums = known.scores.sum(dim=1)
        problems = {
            f"feature_weight={config.feature_weight:g}: {known.name} holds scores and no embeddings: give the "
            "teacher's checkpoint, or leave it out": config.feature_weight > 0,
            f"teacher_precision={config.teacher_precision}: {known.name} holds scores, and no teacher is passed "
            "through; leave it out": config.teacher_precision is not None,
            f"{known.name} holds scores of several classes of a clip, the student is single-label: give the scores of "
            "a single-label teacher": student.spec.activation == "softmax" and bool(((sums - 1).abs() > 1e-3).any()),
        }
        for problem, holds in problems.items():
            if holds:
                raise ConfigError(problem)
        self._known, self._config, self._activation = known, config, student.spec.activation
        self._scores = known.scores[:, order].to(next(student.parameters()).device)

    def require(self, dataset: PackDataset) -> None:
        """Raise `ConfigError` if a training clip has no scores."""
        missing = [clip for each in dataset.clip_ids if (clip := each.decode()) not in self._known.rows]
        if missing:
            raise ConfigError(
                f"the teacher's scores, {self._known.name}, lack {len(missing):,} of {len(dataset):,} training clips, "
                f"first {missing[0]!r}: score all of them (epanns evaluate TEACHER --data PACK)"
            )

    def target_of(
        self, waveform: Tensor, mixup_lambda: Tensor | None, clip_ids: Sequence[str] = ()
    ) -> DistillationTarget:
        """Return the scores of the clips of a batch, mixed in pairs if the batch is; `waveform` is not read."""
        scores = self._scores[[self._known.rows[clip] for clip in clip_ids]]
        mixed = scores if mixup_lambda is None else mix_target(scores, mixup_lambda)
        return DistillationTarget(mixed, mixed.new_empty(0), self._activation, self._config.distil_weight, 0.0)


def _order_of_classes(who: str, theirs: LabelSet, ours: LabelSet) -> list[int]:
    """Return the index of each of the student's classes among the teacher's.

    Raises:
        ConfigError: If the teacher has other classes.
    """
    places = same_classes(theirs, ours)
    missing = [name for index, name in enumerate(ours.names) if index not in places]
    if missing or len(theirs) != len(ours):
        which = f", and lacks {missing[0]!r}" if missing else ""
        raise ConfigError(
            f"{who} has other classes ({len(theirs)}, the student {len(ours)}{which}): fine-tune it on the student's "
            "classes first, or give another teacher"
        )
    return [places[index] for index in range(len(ours))]


def teacher_of(
    student: Tagger,
    teacher: Tagger | TeacherScores | None,
    config: TrainingConfig,
    dataset: PackDataset | None = None,
) -> Teacher | ScoresAsTeacher | None:
    """Return the teacher; None if there is nothing to learn from.

    Args:
        student: Network to be trained.
        teacher: A network, or the scores of one.
        config: Settings.
        dataset: Training clips; scores must cover them. None leaves this unchecked.

    Raises:
        ConfigError: If the teacher does not fit, or the settings are not for a run with or without a teacher.
    """
    check_teacher_settings(config, has_teacher=teacher is not None)
    if isinstance(teacher, TeacherScores):
        scores = ScoresAsTeacher(teacher, student, config)
        if dataset is not None:
            scores.require(dataset)
        return scores
    return None if teacher is None else Teacher(teacher, student, config)


def check_teacher_settings(config: TrainingConfig, *, has_teacher: bool) -> None:
    """Check the settings of a run with or without a teacher.

    Raises:
        ConfigError: If a teacher has no weight, or a weight or `teacher_precision` is set without a teacher.
    """
    if has_teacher:
        if not config.teacher_weights:
            weights = " or ".join(TEACHER_WEIGHTS)
            raise ConfigError(f"teacher without weight: set {weights} above 0, or remove --teacher")
        return
    for name, weight in config.teacher_weights.items():
        raise ConfigError(f"{name}={weight:g} without a teacher: give one (--teacher CKPT), or leave it out")
    if config.teacher_precision is not None:
        raise ConfigError(
            f"teacher_precision={config.teacher_precision} without a teacher: give one (--teacher CKPT), or leave it "
            "out (--teacher-precision)"
        )


def teacher_sha256(teacher: Tagger | TeacherScores) -> str:
    """Return the sha256 of the file a teacher was read from, or of its weights if it was changed since."""
    if isinstance(teacher, TeacherScores):
        return teacher.sha256
    known = teacher.provenance
    return str(known.sha256) if known.is_as_read else weights_digest(teacher)


def relative_distance(embedding: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over clips of ``|a - b|^2 / (|a|^2 + |b|^2)``, in [0, 2], of embeddings ``(batch, size)``.

    It is 0 for equal embeddings only, and 1 for orthogonal embeddings or if one is zero, for any scale and size of the
    embeddings. Clips are weighted equally, so the distance of a batch is the mean of the distances of equal parts.
    """
    lengths = embedding.square().sum(dim=1) + wanted.square().sum(dim=1)
    return ((embedding - wanted).square().sum(dim=1) / torch.where(lengths > 0, lengths, 1)).mean()
