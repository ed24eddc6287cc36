"""Score a pruned network against the unpruned one without labels and, through a class map, on another data set's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epanns.data.batches.compatibility import require_same_outputs
from epanns.data.batches.dataset import PackDataset
from epanns.evaluation.agreement import Agreement, agreement
from epanns.evaluation.class_map import ClassMap, MappedClasses
from epanns.evaluation.predict import Predictions, predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.zero_shot import ZeroShot, zero_shot
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.models.tagger import Tagger


@dataclass(frozen=True)
class Comparison:
    """Agreement of two networks, and the zero-shot scores of both where there is a class map."""

    agreement: Agreement
    pruned: ZeroShot | None = None
    dense: ZeroShot | None = None

    @property
    def kept(self) -> float | None:
        """Share of the unpruned network's zero-shot mAP that the pruned network has."""
        if self.pruned is None or self.dense is None or self.dense.scores.mAP == 0:
            return None
        return self.pruned.scores.mAP / self.dense.scores.mAP

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: those of the agreement and, with a class map, ``zero_shot``."""
        values = self.agreement.to_dict()
        if self.pruned is None or self.dense is None:
            return values
        scores = {"pruned": self.pruned.scores.to_dict(), "dense": self.dense.scores.to_dict()}
        return {**values, "zero_shot": {**scores, "kept": self.kept, "class_map": self.dense.class_map()}}


def agree(
    pruned: Tagger,
    dense: Tagger,
    data: PackDataset | Path | Sequence[Path],
    protocol: EvaluationProtocol | None = None,
    *,
    class_map: Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare the outputs of a pruned network with those of the unpruned one on clips of any classes.

    Args:
        pruned: The pruned network.
        dense: The unpruned network, with the same classes.
        data: Clips at the sample rate of both networks; labels are used with a class map alone.
        protocol: How clips are scored; whole by default.
        class_map: CSV that maps classes of the data to classes of the networks, for zero-shot scores of both networks.
        bootstrap: Number of resamples of the 95 % intervals; 0 for no intervals.
        seed: Seed of the resampling.

    Raises:
        ConfigError: If classes, tasks or sample rates differ.
        DataError: If the class map cannot be used.
        PackError: If the pack has no clip.
        CheckpointError: If a score is not finite.
    """
    dataset = data if isinstance(data, PackDataset) else PackDataset([data] if isinstance(data, Path) else data)
    protocol = protocol or EvaluationProtocol()
    mapped = None if class_map is None else ClassMap.from_csv(class_map).between(dense.labels, dataset.labels)
    predictions = predict_both(pruned, dense, dataset, protocol)
    return compare(predictions, dense.labels, protocol, mapped, bootstrap=bootstrap, seed=seed)


def predict_both(
    pruned: Tagger,
    dense: Tagger,
    dataset: PackDataset,
    protocol: EvaluationProtocol,
    *,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
) -> tuple[Predictions, Predictions]:
    """Score the clips with the pruned and with the unpruned network; arguments and errors as in `epanns.predict`.

    `progress` is called with the number of clips that both networks together have scored and will score.
    """
    require_same_outputs(pruned, dense)
    found: list[Predictions] = []
    for network in (pruned, dense):

        def advance(done: int, total: int | None, before: int = len(found)) -> None:
            if progress is not None and total is not None:
                progress(before * total + done, 2 * total)

        found.append(
            predict(
                network,
                dataset,
                protocol,
                batch_size=batch_size,
                workers=workers,
                progress=advance,
                same_classes=False,
            )
        )
    return found[0], found[1]


def compare(
    predictions: tuple[Predictions, Predictions],
    labels: LabelSet,
    protocol: EvaluationProtocol,
    mapped: MappedClasses | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    group_pattern: str = "",
) -> Comparison:
    """Compare predictions of the pruned and the unpruned network; with mapped classes, score both on them.

    Args:
        predictions: From `predict_both`.
        labels: Classes of both networks.
        protocol: Protocol of the predictions.
        mapped: From `ClassMap.between`; None for the agreement alone.
        bootstrap: As in `epanns.evaluate`, also `seed` and `group_pattern`.
        seed: Seed of the resampling.
        group_pattern: Regular expression that finds each clip's group in its id; empty for none.
    """
    drawn: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "group_pattern": group_pattern}
    found = agreement(*predictions, labels, protocol, **drawn)
    if mapped is None:
        return Comparison(found)
    return Comparison(found, *(zero_shot(each, mapped, protocol, **drawn) for each in predictions))
