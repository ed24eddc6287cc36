"""Score networks that were pruned from one network: on labels, or by agreement with that network, without labels."""

from collections.abc import Mapping

from epanns.data.batches.compatibility import require_same_rate, require_same_task
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, DataError
from epanns.evaluation.agreement import agreement
from epanns.evaluation.class_map import ClassMap
from epanns.evaluation.predict import Predictions, predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.feedback import Progress
from epanns.models.tagger import Tagger
from epanns.stages.score import score

SCORES = ("mAP", "agreement")


class Scorer:
    """Scores networks on the clips of a pack, whole or by another protocol.

    Attributes:
        kind: ``mAP`` on labels, with a class map zero-shot; or ``agreement``, mAP of the unpruned network's own tags.
        protocol: Protocol in words, with the kind of the score where it is not mAP on labels.
    """

    def __init__(
        self,
        dense: Tagger,
        dataset: PackDataset,
        kind: str,
        protocol: EvaluationProtocol | None = None,
        *,
        class_map: ClassMap | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Check that clips and network fit.

        Args:
            dense: The unpruned network; not modified.
            dataset: Clips; labels are used by ``mAP`` alone.
            kind: One of `SCORES`.
            protocol: How clips are scored; whole by default.
            class_map: For clips of other classes.
            progress: Called while clips are scored, as in `epanns.predict`.

        Raises:
            ConfigError: If the kind is unknown, clips and network do not fit, or a class map is given for agreement.
            DataError: If the class map does not fit.
        """
        if kind not in SCORES:
            raise ConfigError(f"score={kind!r}: must be mAP or agreement; choose one")
        if kind == "agreement" and class_map is not None:
            raise ConfigError("score='agreement' with a class map: agreement uses no labels; remove one of the two")
        if kind == "mAP" and class_map is None:
            require_same_task(dense, dataset)
        else:
            require_same_rate(dense, dataset)
        if class_map is not None:
            class_map.between(dense.labels, dataset.labels)
        self.kind = kind
        self._dense, self._dataset, self._map = dense, dataset, class_map
        self._protocol, self._progress = protocol or EvaluationProtocol(), progress
        self._predictions: Predictions | None = None  # of the unpruned network
        self.protocol = self._protocol.describe()
        if kind == "agreement":
            self.protocol += "; mAP of the unpruned network's own tags"

    def summary(self, network: Tagger) -> Mapping[str, float | int | None]:
        """Return the scores of a network as a run record holds them; the score itself is ``mAP``.

        Raises:
            DataError: If no class can be scored by agreement, or mAP is undefined.
            CheckpointError: If a score of a clip is not finite.
        """
        if self.kind == "mAP":
            _, found = score(network, self._dataset, self._protocol, class_map=self._map, progress=self._progress)
            self.protocol = found.protocol
            return found.summary()
        if self._predictions is None:
            self._predictions = self._predict(self._dense)
        predictions = self._predictions if network is self._dense else self._predict(network)
        outputs = agreement(predictions, self._predictions, self._dense.labels, self._protocol, bootstrap=0)
        if outputs.tag_mAP is None:
            raise DataError(
                f"agreement on {len(self._dataset)} clips of {self._dataset.dataset_name}: no class has three tags of "
                "the unpruned network and a clip without; give more clips, or clips with different sounds"
            )
        return {"mAP": outputs.tag_mAP, "n_clips": outputs.n_clips, **outputs.summary()}

    def _predict(self, network: Tagger) -> Predictions:
        return predict(network, self._dataset, self._protocol, progress=self._progress, same_classes=False)
