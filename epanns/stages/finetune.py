"""Train a network on packs: what it needs, and how the step is chosen whose weights are kept."""

from epanns.data.dataset import PackDataset
from epanns.evaluation.metrics import evaluate, mean_loss
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.models.tagger import Tagger
from epanns.training.metrics import LOSS
from epanns.training.validation import Validation


def validation_on(dataset: PackDataset, protocol: EvaluationProtocol | None = None) -> Validation:
    """Return the scoring that chooses checkpoints: macro mAP, accuracy of single-label networks, and the mean loss.

    Args:
        dataset: Clips to score.
        protocol: Whole clips, by default.
    """
    protocol = protocol or EvaluationProtocol()

    def score(model: Tagger) -> dict[str, float]:
        predictions = predict(model, dataset, protocol)
        scores = evaluate(predictions, dataset.labels, protocol, bootstrap=0)
        accuracy = {} if scores.accuracy is None else {"accuracy": scores.accuracy}
        return {"mAP": scores.mAP, **accuracy, LOSS: mean_loss(predictions)}

    settings = protocol.settings()
    return Validation(score, {**dataset.identity(), **({"protocol": settings} if settings else {})}, dataset)
