"""Train a network on packs: the checks before it, and the scoring that chooses the step whose weights are kept."""

from epanns.data.batches.compatibility import refuse_leak, require_same_classes, require_same_task
from epanns.data.batches.dataset import PackDataset
from epanns.evaluation.metrics import mean_loss
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.models.tagger import Tagger
from epanns.stages.score import score
from epanns.training.config import TrainingConfig
from epanns.training.distillation import teacher_of
from epanns.training.learner import require_learner
from epanns.training.metrics import LOSS
from epanns.training.teacher_scores import TeacherScores
from epanns.training.validation import Validation, require_positives


def require_trainable(model: Tagger, config: TrainingConfig, teacher: Tagger | TeacherScores | None = None) -> None:
    """Raise `ConfigError` if a network cannot be trained with these settings, or not by this teacher.

    The network has the task of the settings afterwards.
    """
    if config.task is not None:
        model.set_task(config.task)
    teacher_of(model, teacher, config)
    require_learner(model, config)


def require_clips(model: Tagger, train: PackDataset, val: PackDataset) -> None:
    """Raise `ConfigError` if clips do not fit a network, training and validation share clips, or no clip has a class.

    Args:
        model: The network, with the task that it is trained for.
        train: Training clips.
        val: Validation clips.
    """
    require_same_task(model, train)
    require_same_classes(train, val)
    require_same_task(model, val)
    refuse_leak(train, val, part="validation")
    require_positives(val)


def validation_on(dataset: PackDataset, protocol: EvaluationProtocol | None = None) -> Validation:
    """Return the scoring that chooses the step: macro mAP, accuracy for single-label networks, and the mean loss."""
    protocol = protocol or EvaluationProtocol()

    def scores_of(model: Tagger) -> dict[str, float]:
        predictions, scores = score(model, dataset, protocol)
        accuracy = {} if scores.accuracy is None else {"accuracy": scores.accuracy}
        return {"mAP": scores.mAP, **accuracy, LOSS: mean_loss(predictions)}

    settings = protocol.settings()
    return Validation(scores_of, {**dataset.identity(), **({"protocol": settings} if settings else {})}, dataset)
