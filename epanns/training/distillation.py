"""Distillation: a student learns from the labels and from a teacher's outputs for the same input.

Crops, SpecAugment's stripes and mixup pairs are those of the student::

    loss = (1 - distil_weight) * L(logits, labels) + distil_weight * L(logits, teacher's scores)
         + feature_weight * D(embedding, teacher's embedding)

L is the loss of the student's task: binary cross-entropy of sigmoids, or cross-entropy of a softmax. The teacher scores
the mixed input, so its scores are the targets and are not mixed. D is `relative_distance` of the embeddings behind
`fc1`, whose size does not change when layers are pruned. If the embedding is the channels of a layer, the channels that
were kept are compared.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from epanns.errors import ConfigError
from epanns.labels import same_classes
from epanns.models.layers.pooling import ModelOutput, probabilities_of
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.pruning.embedding_channels import Places, shared_channels
from epanns.seeding import random_state_kept
from epanns.training.config import TEACHER_WEIGHTS, TrainingConfig
from epanns.training.losses import LOSSES


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
        places = same_classes(network.labels, student.labels)
        missing = [name for index, name in enumerate(student.labels.names) if index not in places]
        which = f", and lacks {missing[0]!r}" if missing else ""
        has_same_front_end = theirs.reads_logmel and theirs.front_end == ours.front_end
        problems = {
            "teacher and student are one network: load the teacher a second time": network is student,
            f"the teacher {theirs.name} reads {theirs.front_end.sample_rate} Hz, the student "
            f"{ours.front_end.sample_rate} Hz: give a teacher of the student's rate": (
                theirs.front_end.sample_rate != ours.front_end.sample_rate
            ),
            f"the teacher {theirs.name} is {theirs.task}, the student {ours.task}: give a teacher of the student's "
            "task": theirs.activation != ours.activation,
            f"the teacher {theirs.name} has other classes ({len(network.labels)}, the student {len(student.labels)}"
            f"{which}): fine-tune it on the student's classes first, or give another teacher": (
                bool(missing) or len(network.labels) != len(student.labels)
            ),
            f"the teacher {theirs.name} cannot have the student's SpecAugment stripes, since it has another front end: "
            "switch them off (--no-spec-augment), or give a teacher with the student's front end": (
                config.spec_augment and ours.reads_logmel and not has_same_front_end
            ),
            f"feature_weight={config.feature_weight:g}: the teacher's embedding has {theirs.embedding_size} values, "
            f"the student's {ours.embedding_size}, and no pruning plan relates them; leave it out, or give a teacher "
            "with an embedding of this size, or the network that the student was cut from": (
                config.feature_weight > 0 and not self._compared.channels
            ),
        }
        for problem, holds in problems.items():
            if holds:
                raise ConfigError(problem)
        self._network = network.to(next(student.parameters()).device)
        self._network.to(memory_format=torch.channels_last)
        self._order = [places[index] for index in range(len(student.labels))]
        self._activation, self._config = student.spec.activation, config
        # A student on the waveform has no stripes, so the teacher must have none.
        self._masks = config.spec_augment and ours.reads_logmel

    @torch.no_grad()
    def target_of(self, waveform: Tensor, mixup_lambda: Tensor | None) -> DistillationTarget:
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


def teacher_of(student: Tagger, network: Tagger | None, config: TrainingConfig) -> Teacher | None:
    """Return the teacher; None if there is no network to learn from.

    Raises:
        ConfigError: If the two networks do not fit, or the settings are not for a run with or without a teacher.
    """
    check_teacher_settings(config, has_teacher=network is not None)
    return None if network is None else Teacher(network, student, config)


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


def sha256_of(teacher: Tagger) -> str:
    """Return the sha256 of the file a teacher was read from, or of its weights if it was changed since."""
    known = teacher.provenance
    return str(known.sha256) if known.is_as_read else weights_digest(teacher)


def relative_distance(embedding: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over clips of ``|a - b|^2 / (|a|^2 + |b|^2)``, in [0, 2], of embeddings ``(batch, size)``.

    It is 0 for equal embeddings only, and 1 for orthogonal embeddings or if one is zero, for any scale and size of the
    embeddings. Clips are weighted equally, so the distance of a batch is the mean of the distances of equal parts.
    """
    lengths = embedding.square().sum(dim=1) + wanted.square().sum(dim=1)
    return ((embedding - wanted).square().sum(dim=1) / torch.where(lengths > 0, lengths, 1)).mean()
