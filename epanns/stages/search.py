"""Search the Pareto front of cost and score over widths, criterion and recovery."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epanns.atomic import sha256_of_json, write_json
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, Interrupted, PruningError
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.tagger import Tagger
from epanns.process import Stopped, StopRequest, catching_signals
from epanns.pruning.ranking.criteria import NEEDS
from epanns.records import RunRecord, read_record
from epanns.stages.search_evaluation import Evaluation
from epanns.stages.search_space import JOURNAL, SearchConfig, Study, require_optuna
from epanns.workfolder import Work, WorkFolder, remove

FIRST, FRONT = "search.json", "front.json"
_WORK = Work("holds no search", "holds a search with", "a search")


@dataclass(frozen=True)
class Point:
    """An evaluated network, by its record, ``trials/ID/result.json``."""

    record: RunRecord

    @property
    def cost(self) -> float:
        """Its cost, of the kind of the budget and for 10 s of sound."""
        return float(self.record.cost_after["budget"]["reached"])

    @property
    def trial(self) -> int:
        """Number of the trial that it was first proposed in, from 1 on."""
        return int(self.record.config["search"]["trial"])

    @property
    def score(self) -> float:
        """The score of its last stage."""
        (summary,) = self.record.stages[-1].scores.values()
        return float(summary["mAP"] or 0.0)


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search so far.

    Attributes:
        front: Networks to which no other one is at most as expensive and at least as good; cheapest first.
        dense: Cost and score of the unpruned network.
        n_trials: Number of proposals with an outcome.
        n_points: Number of different networks that were evaluated.
        problems: Why proposals had no network, one line each.
    """

    front: tuple[Point, ...]
    dense: tuple[float, float]
    n_trials: int
    n_points: int
    problems: tuple[str, ...]

    def to_dict(self, kind: str, score: str) -> dict[str, Any]:
        """Return JSON values, the content of ``front.json``."""
        return {
            "kind": kind,
            "score": score,
            "n_trials": self.n_trials,
            "n_points": self.n_points,
            "problems": list(self.problems),
            "dense": {"cost": self.dense[0], "score": self.dense[1]},
            "front": [
                {
                    "trial_id": point.record.trial_id,
                    "cost": point.cost,
                    "fraction": point.cost / self.dense[0],
                    "score": point.score,
                    "criterion": point.record.criterion,
                    "recover": point.record.recover,
                    "widths": point.record.cost_after["widths"],
                    "checkpoint": f"front/{point.record.trial_id}",
                }
                for point in self.front
            ],
        }


# Called after each trial with its number from 1 on, its point, None if no network fits, and the result so far.
OnTrial = Callable[[int, Point | None, SearchResult], None]


def search(
    model: Tagger,
    dataset: PackDataset,
    config: SearchConfig,
    out: Path,
    *,
    calibration: PackDataset | None = None,
    on_trial: OnTrial | None = None,
    fresh: bool = False,
) -> SearchResult:
    """Evaluate proposed networks and keep the checkpoints of the front.

    A proposal is a budget in the range, the shares of the layers' channels (equal within a block), a criterion and a
    recovery. The first three have one ratio for all layers, at both ends of the range and in the middle; the others are
    those of Optuna's multi-objective TPE. Networks that were evaluated before are not evaluated again. Called again
    with the same arguments, the search resumes; with more trials it continues.

    Every network has a record, ``trials/ID/result.json``, so that `epanns report` makes tables and figures of `out`.
    ``front.json`` has the front, ``front/ID`` its checkpoints.

    Args:
        model: The network as loaded from a checkpoint; not modified.
        dataset: Clips to score, whole.
        config: Settings.
        out: Folder of the search.
        calibration: Clips for recoveries and criteria; by default those of `dataset`.
        on_trial: Called after each trial.
        fresh: Whether to delete an earlier search in `out`.

    Raises:
        ConfigError: If optuna is missing, clips and network do not fit, or the settings are invalid.
        DataError: If no class can be scored.
        PruningError: If a layer or criterion cannot be used, or an end of the range cannot be met.
        OutputError: If `out` holds another search or something else, or another process works there.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 was received; the evaluated networks are kept.
    """
    require_optuna()
    space = config.space(model)
    if model.provenance.sha256 is None:
        raise ConfigError(f"this {model.spec.name} has no checkpoint: save it with epanns.save, then load it")
    labelled = [name for name in config.criteria if NEEDS[name] == "gradients"]
    if labelled and calibration is None:
        raise ConfigError(
            f"criterion {labelled[0]!r} uses labels, and the labels of the scored clips would bias the scores: give a "
            "calibration pack of other clips"
        )
    asked = {
        "model": model.spec.to_dict(),
        "weights_sha256": model.provenance.sha256,
        "data": {**dataset.identity(), "clip_seconds": dataset.clip_seconds},
        "calibration": None if calibration is None else calibration.identity(),
        "space": space.to_dict(),
        "round_to": config.round_to,
        "score": config.score,
        "calibration_clips": config.calibration_clips,
        "seed": config.seed,
        **({} if config.class_map is None else {"class_map_sha256": config.class_map.digest}),
    }
    folder = WorkFolder(out, FIRST, _WORK)
    folder.require_usable()
    with folder.locked(), catching_signals() as stop:
        evaluation = Evaluation(model, (dataset, calibration or dataset), config, space, stop)
        if fresh:
            folder.start_over(_is_own)
        folder.begin_or_resume(asked, first={"asked": asked}, read=lambda found: (found["asked"], None))
        return _Search(evaluation, Study(out, space, config.seed), out, stop).run(config.trials, on_trial)


def _is_own(name: str) -> bool:
    return name.removesuffix(".partial") in {FIRST, FRONT, JOURNAL, f"{JOURNAL}.lock"} or name.split("/")[0] in {
        "trials",
        "front",
    }


class _Search:
    """The trials of a search in its folder."""

    def __init__(self, evaluation: Evaluation, study: Study, out: Path, stop: StopRequest) -> None:
        self.evaluation, self.study, self.out, self.stop = evaluation, study, out, stop
        self.unpruned = evaluation.unpruned_cost
        self.points = {path.parent.name: Point(read_record(path)) for path in out.glob("trials/*/result.json")}

    def run(self, trials: int, on_trial: OnTrial | None) -> SearchResult:
        """Evaluate proposals until there are `trials` with an outcome."""
        try:  # a signal ends a trial early, as a part of an evaluation cannot be kept
            result = self._result()
            while (n_done := self.study.n_done) < trials:
                self.stop.raise_if_stopped()
                point = self._next(n_done + 1)
                result = self._write_front()
                if on_trial is not None:
                    on_trial(n_done + 1, point, result)
            return result
        except Stopped as stopped:
            raise Interrupted(
                stopped.signal_number,
                f"stopped by signal {stopped.signal_number}; {self.study.n_done} of {trials} trials are kept in "
                f"{self.out}: run the same command again without --fresh to resume",
            ) from None

    def _next(self, number: int) -> Point | None:
        """Evaluate the next proposal; None if no network fits it."""
        proposal = self.study.ask()
        self.evaluation.importance(proposal.criterion)  # a criterion that cannot rank the network ends the search
        try:
            plan, reached = self.evaluation.plan(proposal)
        except PruningError as error:
            self.study.refuse(str(error))
            return None
        kept = {layer: list(channels) for layer, channels in plan.kept_channels.items()}
        trial_id = sha256_of_json([kept, proposal.recover])[:12]  # criteria may keep the same channels
        if trial_id not in self.points:
            network, record = self.evaluation.evaluate(proposal, plan, reached, number, trial_id)
            point = Point(record)
            if point in front_of([*self.points.values(), point]):
                save_checkpoint(network, self.out / "front" / trial_id, overwrite=True)
            write_json(self.out / "trials" / trial_id / "result.json", record.to_dict())
            self.points[trial_id] = point
        point = self.points[trial_id]
        self.study.tell(point.cost / self.unpruned, point.score)
        return point

    def _result(self) -> SearchResult:
        (dense,) = self.evaluation.dense.scores.values()
        return SearchResult(
            tuple(front_of(self.points.values())),
            (self.unpruned, float(dense["mAP"] or 0.0)),
            self.study.n_done,
            len(self.points),
            tuple(self.study.problems()),
        )

    def _write_front(self) -> SearchResult:
        """Write ``front.json`` and delete the checkpoints of networks that are no longer on the front."""
        result = self._result()
        write_json(self.out / FRONT, result.to_dict(self.evaluation.space.kind, self.evaluation.config.score))
        on_front = {point.record.trial_id for point in result.front}
        for folder in (self.out / "front").glob("*"):
            if folder.name not in on_front:
                remove(folder)
        return result


def front_of(points: Iterable[Point]) -> list[Point]:
    """Return the points to which no other is at most as expensive and at least as good; cheapest first.

    Of equal points that of the earliest trial is returned.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.score, each.trial)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return front
