"""Distillation: a network learns from labels and from what a teacher makes of the very same input.

Crops, SpecAugment's stripes and the pairs of mixup are those of the student::

    loss = (1 - distil_weight) * L(logits, labels) + distil_weight * L(logits, teacher's scores)
         + feature_weight * D(embedding, teacher's embedding)

L is the loss of the student's task: binary cross-entropy on sigmoids, cross-entropy on a softmax. The teacher hears the
mixtures themselves, so its scores are their targets as they are. D is `relative_distance`, at the embedding behind
`fc1`, which keeps its size when layers are pruned; what `fc1` reads does not. Where the embedding is the channels of a
layer, the kept channels are compared.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from epanns.errors import ConfigError
from epanns.labels import same_classes
from epanns.models.modes import evaluation_mode
from epanns.models.pooling import ModelOutput, probabilities_of
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.pruning.embedding_channels import Places, shared_channels
from epanns.seeding import random_state_kept
from epanns.training.config import TEACHER_WEIGHTS, TrainingConfig
from epanns.training.losses import LOSSES


@dataclass(frozen=True)
class DistillationTarget:
    """What a teacher makes of a batch.

    Attributes:
        scores: ``(batch, classes)`` float32 in [0, 1], in the order of the student's classes.
        embedding: ``(batch, channels)`` float32: the channels that the student's embedding has too.
        activation: The student's, which decides the loss.
        distil_weight: Of the loss on the scores; the labels have the rest.
        feature_weight: Of the distance of the embeddings.
        places: Those channels' places in the student's embedding; by default all of it.
    """

    scores: Tensor
    embedding: Tensor
    activation: str
    distil_weight: float
    feature_weight: float
    places: Places = field(default_factory=lambda: slice(None))

    def loss(self, of_labels: Tensor, output: ModelOutput) -> Tensor:
        """Return the student's whole loss.

        Args:
            of_labels: Its loss on the labels.
            output: What it made of the batch while learning.
        """
        of_scores = LOSSES[self.activation](output["clipwise_logits"].float(), self.scores)
        loss = (1 - self.distil_weight) * of_labels + self.distil_weight * of_scores
        if not self.feature_weight:
            return loss
        embedding = output.get("hidden", output["embedding"]).float()
        return loss + self.feature_weight * relative_distance(embedding[:, self.places], self.embedding)


class Teacher:
    """A network that another one is to imitate: it stays as it is."""

    def __init__(self, network: Tagger, student: Tagger, config: TrainingConfig) -> None:
        """Take `network` as the teacher of `student`; it is moved to the student's device.

        Raises:
            ConfigError: If the two do not fit.
        """
        _require_fit(network, student, config)
        self._network = network.to(next(student.parameters()).device)
        self._network.to(memory_format=torch.channels_last)
        places = same_classes(network.labels, student.labels)
        self._order = [places[index] for index in range(len(student.labels))]
        self._activation, self._config = student.spec.activation, config
        self._compared = shared_channels(student, network)
        # Where the student hears the waveform it hears no stripes, so the teacher shall hear none.
        self._masks = config.spec_augment and student.spec.reads_logmel

    @torch.no_grad()
    def target_of(self, waveform: Tensor, mixup_lambda: Tensor | None) -> DistillationTarget:
        """Return what the teacher makes of a batch that the student hears next.

        It is in evaluation mode but for SpecAugment. Its stripes are the student's: those of `epanns.draws.clip_draws`
        or, outside it, the next ones of torch's generator, which is left as it was.

        Args:
            waveform: ``(batch, samples)``, the student's.
            mixup_lambda: The weights of the student's pairs, if it hears pairs.
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
    """Return the teacher; None where there is none.

    Raises:
        ConfigError: If a weight asks for a teacher that there is not, no weight lets the student listen to the one
            there is, or the two networks do not fit.
    """
    if network is None:
        for name, weight in config.teacher_weights.items():
            raise ConfigError(f"{name}={weight:g} without a teacher: give one (--teacher CKPT), or leave it out")
        refuse_precision_of_nobody(config)
        return None
    require_listener(config)
    return Teacher(network, student, config)


def require_listener(config: TrainingConfig) -> None:
    """Raise `ConfigError` where a teacher would not be listened to."""
    if not config.teacher_weights:
        weights = " or ".join(TEACHER_WEIGHTS)
        raise ConfigError(f"a teacher that nobody listens to: give {weights} above 0, or leave it out")


def refuse_precision_of_nobody(config: TrainingConfig) -> None:
    """Raise `ConfigError` if there is a precision of the teacher; call it where there is no teacher."""
    if config.teacher_precision is not None:
        raise ConfigError(
            f"teacher_precision={config.teacher_precision} without a teacher: give one (--teacher CKPT), or leave it "
            "out (--teacher-precision)"
        )


def sha256_of(teacher: Tagger) -> str:
    """Return what tells a teacher: the sha256 of the file it was read from; if it was changed, that of its weights."""
    known = teacher.provenance
    return str(known.sha256) if known.is_as_read else weights_digest(teacher)


def relative_distance(embedding: Tensor, wanted: Tensor) -> Tensor:
    """Return the clips' mean of ``|a - b|^2 / (|a|^2 + |b|^2)``, in [0, 2], of embeddings ``(batch, size)``.

    It is 0 where they agree alone, and 1 where one of them is zeros or they are orthogonal, whatever the networks'
    scale and size. Each clip counts by itself, so a batch in parts has the mean of its parts' distances.
    """
    lengths = embedding.square().sum(dim=1) + wanted.square().sum(dim=1)
    return ((embedding - wanted).square().sum(dim=1) / torch.where(lengths > 0, lengths, 1)).mean()


def _require_fit(network: Tagger, student: Tagger, config: TrainingConfig) -> None:
    """Raise `ConfigError` at the first thing that keeps one network from teaching another."""
    ours, theirs = student.spec, network.spec
    problems = {
        "teacher and student are one network: load the teacher a second time": network is student,
        f"the teacher {theirs.name} hears {theirs.front_end.sample_rate} Hz, the student {ours.front_end.sample_rate} "
        "Hz: give a teacher of the student's rate": theirs.front_end.sample_rate != ours.front_end.sample_rate,
        f"the teacher {theirs.name} is {theirs.task}, the student {ours.task}: give a teacher of the student's task": (
            theirs.activation != ours.activation
        ),
        **_class_problems(network, student),
        f"the teacher {theirs.name} would not hear the student's SpecAugment stripes, since it has another front end: "
        "switch them off (--no-spec-augment), or give a teacher with the student's front end": (
            config.spec_augment and ours.reads_logmel and not _has_front_end_of(network, student)
        ),
        f"feature_weight={config.feature_weight:g}: the teacher's embedding has {theirs.embedding_size} values, the "
        f"student's {ours.embedding_size}, and no pruning plan relates them; leave it out, or give a teacher with an "
        "embedding of this size, or the network that the student was cut from": (
            config.feature_weight > 0 and not shared_channels(student, network).channels
        ),
    }
    for problem, holds in problems.items():
        if holds:
            raise ConfigError(problem)


def _class_problems(network: Tagger, student: Tagger) -> dict[str, bool]:
    theirs, ours = network.labels, student.labels
    places = same_classes(theirs, ours)
    lacking = [name for index, name in enumerate(ours.names) if index not in places]
    which = f", and lacks {lacking[0]!r}" if lacking else ""
    problem = (
        f"the teacher {network.spec.name} has other classes ({len(theirs)}, the student {len(ours)}{which}): fine-tune "
        "it on the student's classes first, or give another teacher"
    )
    return {problem: bool(lacking) or len(theirs) != len(ours)}


def _has_front_end_of(network: Tagger, student: Tagger) -> bool:
    return network.spec.reads_logmel and network.spec.front_end == student.spec.front_end
