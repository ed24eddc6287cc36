"""How much mAP pruning costs layer by layer: each layer alone, at several ratios, always from the unpruned network."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from epanns.atomic import write_text
from epanns.complexity.macs import profile
from epanns.data.compatibility import in_the_models_order, require_same_task
from epanns.data.dataset import PackDataset
from epanns.data.loader import make_loader
from epanns.data.sampler import sequential_batches
from epanns.errors import ConfigError, Interrupted
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.packages import versions
from epanns.pruning.budgets.sensitivity import SensitivityRow
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.ranking.criteria import NEEDS, criterion_named, most_important
from epanns.pruning.ranking.importance import channel_importance
from epanns.pruning.ranking.pack_clips import CALIBRATION_BATCH, batches_for
from epanns.pruning.recovery.recover import recover
from epanns.records import DECISIVE_PACKAGES
from epanns.signals import Stopped, StopRequest, catching_signals
from epanns.stages.score import device_of
from epanns.stages.sensitivity_record import TABLE, SensitivityFolder, SensitivityRecord

_PROTOCOL = EvaluationProtocol()

T = TypeVar("T")

# Called with the record after each row.
OnRow = Callable[[SensitivityRecord], None]


class Cell(NamedTuple):
    """A layer and how much of it goes: `ratio` of its channels, so that `width` stay."""

    layer: str
    ratio: float
    width: int


@dataclass(frozen=True)
class SensitivityConfig:
    """What is measured.

    Attributes:
        ratios: Fractions of a layer's channels removed, each in (0, 1).
        layers: Names of layers or blocks; None for every prunable one.
        criterion: Which channels go: a name in `pruning.ranking.criteria.CRITERIA`.
        recover: What is done before scoring, as in `pruning.recovery.recover`.
        seed: For criteria that draw numbers.
    """

    ratios: Sequence[float] = (0.25, 0.5, 0.75)
    layers: Sequence[str] | None = None
    criterion: str = "l1"
    recover: str = "bn"
    seed: int = 0

    def cells(self, model: Tagger) -> list[Cell]:
        """Return what is measured, in forward order, checked before anything is.

        Without `layers`, layers of a single channel are left out: nothing can be removed from them.

        Raises:
            ConfigError: If there is no ratio, or one twice.
            PruningError: If a layer, a ratio or the criterion cannot be used with this network.
        """
        if not self.ratios or len(set(self.ratios)) < len(self.ratios):
            raise ConfigError(f"ratios={','.join(f'{ratio:g}' for ratio in self.ratios)}: give each ratio once")
        criterion_named(self.criterion)
        plans = [plan_pruning(model, ratio=ratio, layers=self.layers) for ratio in sorted(self.ratios)]
        return [
            Cell(layer, plan.ratios[layer], width=plan.widths[layer])
            for layer in plans[0].kept_channels
            for plan in plans
            if layer in plan.pruned_layers
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

    Every row starts from `model` and is kept in ``sensitivity.json`` when it is done: called again with the same
    arguments the measurement goes on where it was, and ends with the same table. ``sensitivity.csv`` appears when
    every row is done.

    Args:
        model: The network as loaded from a checkpoint; not touched.
        dataset: Clips that are scored, whole.
        config: What is measured.
        out: Folder of the measurement.
        calibration: Clips for the recovery and for criteria that measure clips, whose labels only ``taylor`` looks at;
            by default those of `dataset`.
        on_row: Called with the record when it is opened and after each row.
        fresh: Whether to delete an earlier measurement in `out`, once everything was checked and the folder is locked.

    Raises:
        ConfigError: If clips and network do not fit, or the network has no checkpoint behind it.
        PruningError: If a layer, ratio, criterion or recovery cannot be used.
        OutputError: If `out` holds another measurement or something else, or another process works there.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 came; the rows done are kept.
    """
    require_same_task(model, dataset)
    if calibration is not None and calibration.sample_rate != dataset.sample_rate:
        raise ConfigError(
            f"the calibration pack holds {calibration.sample_rate} Hz, {model.spec.name} hears {dataset.sample_rate} "
            f"Hz: pack the clips with --sample-rate {dataset.sample_rate}"
        )
    if calibration is None and NEEDS.get(config.criterion) == "gradients":
        raise ConfigError(
            f"criterion {config.criterion!r} looks at labels, and those of the scored clips would flatter it: "
            "give a calibration pack of other clips"
        )
    cells = config.cells(model)
    folder = SensitivityFolder(out)
    asked = _asked(model, dataset, config, calibration)
    with folder.opened(asked, len(cells) + 1, fresh=fresh) as record, catching_signals() as stop:
        record = replace(record, network=weights_digest(model))
        measurement = _Measurement(model, (dataset, calibration or dataset), config, stop)
        if on_row is not None:
            on_row(record)
        for cell in [None, *cells][len(record.rows) :]:
            record = measurement.grown(record, cell, out)
            folder.save(record)
            if on_row is not None:
                on_row(record)
        write_text(out / TABLE, record.table.to_csv())
    return record


class _Measurement:
    """What the rows share."""

    def __init__(
        self, model: Tagger, packs: tuple[PackDataset, PackDataset], config: SensitivityConfig, stop: StopRequest
    ) -> None:
        self.model, self.config, self.stop = model, config, stop
        self.dataset = packs[0]
        self.calibration = in_the_models_order(model, packs[1])

    def grown(self, record: SensitivityRecord, cell: Cell | None, out: Path) -> SensitivityRecord:
        """Return the record with one row more: of a layer at a ratio, or of the dense network."""
        started = time.perf_counter()
        try:
            row = self._row(cell)
        except Stopped as stopped:
            raise Interrupted(
                stopped.signal_number,
                f"stopped by signal {stopped.signal_number}; {len(record.rows)} of {record.n_rows} rows are kept in "
                f"{out}: run the same command again without --fresh to go on",
            ) from None
        return replace(
            record,
            rows=(*record.rows, row),
            seconds=round(record.seconds + time.perf_counter() - started, 3),
            device=device_of(self.model),
            versions=versions(*DECISIVE_PACKAGES),
        )

    def _row(self, cell: Cell | None) -> SensitivityRow:
        network = self.model
        if cell is not None:
            plan = self._plan(cell)
            network = apply_plan(self.model, plan)
            recover(network, self.model, self._waveforms, self.config.recover, plan=plan)
        predictions = predict(network, self.dataset, _PROTOCOL, progress=self._obey)
        cost = profile(network, seconds=self.dataset.clip_seconds)
        layer, ratio, width = cell or ("", 0.0, None)
        return SensitivityRow(
            layer=layer,
            ratio=ratio,
            width=width,
            mAP=evaluate(predictions, self.dataset.labels, _PROTOCOL, bootstrap=0).mAP,
            n_params=cost.n_params,
            backbone_macs=cost.backbone_macs,
        )

    def _plan(self, cell: Cell) -> PruningPlan:
        kept = most_important(self._importance[cell.layer], cell.width, layer=cell.layer)
        criterion, seed = self.config.criterion, self.config.seed
        return PruningPlan(self.model.spec, {cell.layer: kept}, criterion, {cell.layer: cell.ratio}, seed)

    @functools.cached_property
    def _importance(self) -> dict[str, Tensor]:
        """Every row starts from the same network: its channels are ranked once."""
        criterion, order = self.config.criterion, sequential_batches(len(self.calibration), CALIBRATION_BATCH)
        clips = batches_for(criterion, self.model, self.calibration, order)
        layers = dict.fromkeys(cell.layer for cell in self.config.cells(self.model))
        return channel_importance(
            self.model,
            tuple(layers),
            criterion=criterion,
            seed=self.config.seed,
            calibration=None if clips is None else self._stoppable(clips),
        )

    def _stoppable(self, batches: Iterable[T]) -> Iterator[T]:
        for batch in batches:
            self._obey()
            yield batch

    def _waveforms(self) -> Iterator[Tensor]:
        order = sequential_batches(len(self.calibration), CALIBRATION_BATCH)
        for batch in self._stoppable(make_loader(self.calibration, order)):
            yield batch.float_waveform()

    def _obey(self, *_: object) -> None:
        """Stop in the middle of a row where a signal came: nothing of it is worth waiting for."""
        self.stop.raise_if_stopped()


def _asked(
    model: Tagger, dataset: PackDataset, config: SensitivityConfig, calibration: PackDataset | None
) -> dict[str, Any]:
    """Return what makes two measurements the same, as JSON values."""
    if model.provenance.sha256 is None:
        raise ConfigError(f"this {model.spec.name} has no checkpoint behind it: save it with epanns.save, then load it")
    return {
        "model": model.spec.to_dict(),
        "weights_sha256": model.provenance.sha256,
        "data": {**dataset.identity(), "clip_seconds": dataset.clip_seconds},
        "calibration": None if calibration is None else calibration.identity(),
        "protocol": _PROTOCOL.describe(),
        "layers": list(dict.fromkeys(cell.layer for cell in config.cells(model))),
        "ratios": sorted(config.ratios),
        "criterion": config.criterion,
        "recover": config.recover,
        "seed": config.seed,
    }
