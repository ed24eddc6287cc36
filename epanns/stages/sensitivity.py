"""Measure sensitivities: score the network with one layer pruned, for each layer at several ratios."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from epanns.atomic import write_json, write_text
from epanns.complexity.macs import profile
from epanns.data.batches.compatibility import in_the_models_order
from epanns.data.batches.dataset import ClipBatch, PackDataset
from epanns.errors import ConfigError, Interrupted
from epanns.evaluation.class_map import ClassMap
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.packages import versions
from epanns.process import Stopped, StopRequest, catching_signals
from epanns.pruning.budgets.sensitivity_table import FIGURES, RECORD, TABLE, SensitivityRecord, SensitivityRow
from epanns.pruning.calibration_clips import CalibrationClips
from epanns.pruning.config import Amount, PruningConfig
from epanns.pruning.prune import apply_plan, widths_after
from epanns.pruning.ranking.criteria import NEEDS, most_important
from epanns.pruning.ranking.importance import channel_importance
from epanns.pruning.recovery.recover import recover
from epanns.records import DECISIVE_PACKAGES
from epanns.stages.score import device_of
from epanns.stages.scorer import Scorer
from epanns.workfolder import Work, WorkFolder

_PROTOCOL = EvaluationProtocol()
_WORK = Work("holds no sensitivities", "was measured with", "a measurement")

# Called with the record after each row.
OnRow = Callable[[SensitivityRecord], None]


class Cell(NamedTuple):
    """A layer, the `ratio` of its channels that is removed, and the `width` that is kept."""

    layer: str
    ratio: float
    width: int


@dataclass(frozen=True)
class SensitivityConfig:
    """Settings of a measurement.

    Attributes:
        ratios: Fractions of a layer's channels removed, each in (0, 1).
        layers: Names of layers or blocks; None for every prunable layer.
        criterion: A name in `pruning.ranking.criteria.CRITERIA`.
        recover: Recovery before scoring, as in `pruning.recovery.recover`.
        seed: Seed of criteria that draw numbers.
        score: ``mAP`` on labels, or ``agreement``: mAP of the unpruned network's own tags, without labels. None for mAP
            where the clips have labels of the network's classes or there is a class map, else agreement.
        class_map: For clips of other classes: mAP is zero-shot.
    """

    ratios: Sequence[float] = (0.25, 0.5, 0.75)
    layers: Sequence[str] | None = None
    criterion: str = "l1"
    recover: str = "bn"
    seed: int = 0
    score: str | None = None
    class_map: ClassMap | None = None

    def score_on(self, model: Tagger, dataset: PackDataset) -> str:
        """Return the score of the rows, ``mAP`` or ``agreement``.

        Raises:
            ConfigError: If the score is unknown, clips and network do not fit, or a class map is given for agreement.
            DataError: If the class map does not fit.
        """
        has_labels = dataset.labels.names == model.labels.names and bool(dataset.targets.counts().any())
        chosen = self.score or ("mAP" if has_labels or self.class_map is not None else "agreement")
        return Scorer(model, dataset, chosen, _PROTOCOL, class_map=self.class_map).kind

    def cells(self, model: Tagger) -> list[Cell]:
        """Return the layers and ratios to measure, in forward order.

        Without `layers`, layers of a single channel are left out, as no channel can be removed from them.

        Raises:
            ConfigError: If there is no ratio, or one appears twice.
            PruningError: If a layer, a ratio or the criterion cannot be used with this network.
        """
        if not self.ratios or len(set(self.ratios)) < len(self.ratios):
            raise ConfigError(f"ratios={','.join(f'{ratio:g}' for ratio in self.ratios)}: give each ratio once")
        widths = {}
        for ratio in sorted(self.ratios):
            pruning = PruningConfig(Amount(ratio=ratio), criterion=self.criterion, layers=self.layers)
            widths[float(ratio)] = widths_after(model, pruning)
        return [
            Cell(layer, ratio, width=widths[ratio][layer])
            for layer in next(iter(widths.values()))
            for ratio in widths
            if widths[ratio][layer] < model.spec.widths[layer]
        ]


def measure_sensitivity(
    model: Tagger,
    dataset: PackDataset,
    config: SensitivityConfig,
    out: Path,
    *,
    calibration: PackDataset | None = None,
    on_row: OnRow | None = None,
    fresh: bool = False,
) -> SensitivityRecord:
    """Score the network with each layer pruned alone, and write the table.

    Every row starts from `model` and is written to ``sensitivity.json`` when it is measured. Called again with the same
    arguments, the measurement resumes and ends with the same table. ``sensitivity.csv`` is written after the last row.

    Args:
        model: The network as loaded from a checkpoint; not modified.
        dataset: Clips to score, whole.
        config: Settings.
        out: Folder of the measurement.
        calibration: Clips for the recovery and for criteria that measure clips; only ``taylor`` uses their labels. By
            default those of `dataset`.
        on_row: Called with the record at the start and after each row.
        fresh: Whether to delete an earlier measurement in `out`, after all checks and under the lock.

    Raises:
        ConfigError: If clips and network do not fit, or the network was not loaded from a checkpoint.
        DataError: If the class map does not fit, or no class can be scored by agreement.
        PruningError: If a layer, ratio, criterion or recovery cannot be used.
        OutputError: If `out` holds another measurement or something else, or another process works there.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 was received; the measured rows are kept.
    """
    chosen = config.score_on(model, dataset)
    if calibration is not None and calibration.sample_rate != dataset.sample_rate:
        raise ConfigError(
            f"the calibration pack holds {calibration.sample_rate} Hz, {model.spec.name} needs {dataset.sample_rate} "
            f"Hz: pack the clips with --sample-rate {dataset.sample_rate}"
        )
    if calibration is None and NEEDS.get(config.criterion) == "gradients":
        raise ConfigError(
            f"criterion {config.criterion!r} uses labels, and the labels of the scored clips would bias the scores: "
            "give a calibration pack of other clips"
        )
    if model.provenance.sha256 is None:
        raise ConfigError(f"this {model.spec.name} has no checkpoint: save it with epanns.save, then load it")
    cells = config.cells(model)
    asked = {
        "model": model.spec.to_dict(),
        "weights_sha256": model.provenance.sha256,
        "data": {**dataset.identity(), "clip_seconds": dataset.clip_seconds},
        "calibration": None if calibration is None else calibration.identity(),
        "protocol": _PROTOCOL.describe(),
        "layers": list(dict.fromkeys(cell.layer for cell in cells)),
        "ratios": sorted(config.ratios),
        "criterion": config.criterion,
        "recover": config.recover,
        "seed": config.seed,
        **({} if chosen == "mAP" else {"score": chosen}),
        **({} if config.class_map is None else {"class_map_sha256": config.class_map.digest}),
    }
    folder = WorkFolder(out, RECORD, _WORK)
    folder.require_usable()
    with folder.locked(), catching_signals() as stop:
        if fresh:
            folder.start_over(lambda name: name.removesuffix(".partial") in {RECORD, TABLE, *FIGURES})
        empty = SensitivityRecord(asked, len(cells) + 1)
        record = (
            folder.begin_or_resume(
                asked, first=empty.to_dict(), read=lambda found: (found["asked"], SensitivityRecord.from_dict(found))
            )
            or empty
        )
        record = replace(record, network=weights_digest(model))
        if on_row is not None:
            on_row(record)
        measurement = _Measurement(model, (dataset, calibration or dataset), config, cells, stop)
        for cell in [None, *cells][len(record.rows) :]:
            record = measurement.extend(record, cell, out)
            write_json(folder.first_file, record.to_dict())
            if on_row is not None:
                on_row(record)
        write_text(out / TABLE, record.table.to_csv())
    return record


class _Measurement:
    """The network, the clips and the importance of its channels, which all rows share."""

    def __init__(
        self,
        model: Tagger,
        packs: tuple[PackDataset, PackDataset],
        config: SensitivityConfig,
        cells: Sequence[Cell],
        stop: StopRequest,
    ) -> None:
        self.model, self.config, self.cells, self.stop = model, config, cells, stop
        self.dataset = packs[0]
        self._scorer = Scorer(
            model,
            packs[0],
            config.score_on(model, packs[0]),
            _PROTOCOL,
            class_map=config.class_map,
            progress=lambda *_: stop.raise_if_stopped(),
        )
        self._importance: dict[str, Tensor] = {}  # of the channels of each layer

        def until_stopped(batches: Iterable[ClipBatch], *_: object) -> Iterator[ClipBatch]:
            for batch in batches:
                stop.raise_if_stopped()
                yield batch

        self.clips = CalibrationClips.from_pack(in_the_models_order(model, packs[1]), progress=until_stopped)

    def extend(self, record: SensitivityRecord, cell: Cell | None, out: Path) -> SensitivityRecord:
        """Return the record with one row more: of a layer at a ratio, or of the unpruned network."""
        started = time.perf_counter()
        network, config = self.model, self.config
        try:  # a signal ends a row early, as a part of a row cannot be kept
            if cell is not None:
                if not self._importance:  # the same for all rows, as each starts from the unpruned network
                    layers = tuple(dict.fromkeys(each.layer for each in self.cells))
                    self._importance = channel_importance(
                        self.model, layers, criterion=config.criterion, seed=config.seed, calibration=self.clips
                    )
                kept = most_important(self._importance[cell.layer], cell.width, layer=cell.layer)
                ratios = {cell.layer: cell.ratio}
                plan = PruningPlan(self.model.spec, {cell.layer: kept}, config.criterion, ratios, config.seed)
                network = apply_plan(self.model, plan)
                recover(network, self.model, self.clips, config.recover, plan=plan)
            value = float(self._scorer.summary(network)["mAP"] or 0.0)
        except Stopped as stopped:
            raise Interrupted(
                stopped.signal_number,
                f"stopped by signal {stopped.signal_number}; {len(record.rows)} of {record.n_rows} rows are kept in "
                f"{out}: run the same command again without --fresh to resume",
            ) from None
        cost = profile(network, seconds=self.dataset.clip_seconds)
        layer, ratio, width = cell or ("", 0.0, None)
        row = SensitivityRow(layer, ratio, width, value, cost.n_params, cost.backbone_macs)
        return replace(
            record,
            rows=(*record.rows, row),
            seconds=round(record.seconds + time.perf_counter() - started, 3),
            device=device_of(self.model),
            versions=versions(*DECISIVE_PACKAGES),
        )
