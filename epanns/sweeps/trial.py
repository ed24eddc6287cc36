"""One trial: train a base, or prune, recover, fine-tune and score one network."""

import copy
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from epanns.clip_scores import FILE as CLIP_SCORES
from epanns.clip_scores import ClipScores, write_clip_scores
from epanns.complexity.macs import profile
from epanns.data.batches.compatibility import in_the_models_order, refuse_leak
from epanns.data.batches.dataset import PackDataset
from epanns.distributed import broadcast, on_rank_zero, rank, share_tensors
from epanns.errors import DataError, Interrupted
from epanns.evaluation.agreement import agreement
from epanns.evaluation.class_map import ClassMap
from epanns.evaluation.predict import Predictions, predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.zero_shot import zero_shot
from epanns.models.files.load import load
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.models.warm_start import build_on_yamnet, stays_frozen
from epanns.models.zoo import build_model
from epanns.packages import versions
from epanns.pruning.calibration_clips import CalibrationClips
from epanns.pruning.prune import apply_plan, plan_and_cost
from epanns.pruning.recovery.descent import RecoveryRun
from epanns.pruning.recovery.recover import plan_between, recover
from epanns.records import DECISIVE_PACKAGES, RunRecord, Stage
from epanns.safe_text import path_name
from epanns.seeding import derive_seed, numpy_generator, random_state_kept
from epanns.stages.finetune import validation_on
from epanns.stages.prune import Recover, Rounds, prune_in_rounds
from epanns.stages.score import device_of, recorded_width, score, scored_seconds
from epanns.sweeps.experiment import pruning_of
from epanns.sweeps.journal import TrialFolder
from epanns.training.config import TrainingConfig, frozen_in
from epanns.training.finetune import finetune
from epanns.training.loop import Log, OnStep, RunOptions, no_log

_SCORED = ("val", "test")


def run_trial(folder: TrialFolder, *, device: str = "cpu", on_step: OnStep | None = None, log: Log = no_log) -> bool:
    """Run or resume a trial that has neither a result nor an error; return whether it has a result then.

    Every launcher calls this function. It waits until no other process works on the trial, so that no trial is run
    twice. Several processes of ``torchrun`` that all call it share training and scoring; rank 0 alone writes files. The
    result is written to ``result.json``, the error of a failure to ``error.json``.

    Args:
        folder: Prepared by `sweep_folder.Sweep.prepare`.
        device: Device of the networks, ``cpu`` or ``cuda``.
        on_step: Called after each training step.
        log: Called with one line for each remark of the training runs.

    Raises:
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 was received; the same call resumes the trial.
    """
    with ExitStack() as held:
        on_rank_zero(lambda: held.enter_context(folder.locked()))
        if not broadcast(folder.is_done or folder.has_failed):
            try:
                record = _run(folder, device, RunOptions(on_step=on_step, log=log))
                on_rank_zero(lambda: folder.succeed(record))
            except Interrupted:
                raise
            except Exception as error:  # one failed trial must not stop the others; the traceback is kept
                if rank() > 0:
                    raise
                folder.fail(error)
        return folder.is_done


def _run(folder: TrialFolder, device: str, options: RunOptions) -> RunRecord:
    request = folder.read_config()
    trial = _Trial(folder, request, device, options)
    return trial.run_base() if request["config"]["kind"] == "base" else trial.run_pruned()


class _Trial:
    """The settings and the packs of one trial."""

    def __init__(self, folder: TrialFolder, request: Mapping[str, Any], device: str, options: RunOptions) -> None:
        self.folder, self.request, self.device, self.options = folder, request, device, options
        self.config: Mapping[str, Any] = request["config"]
        data = self.config.get("base", self.config)["data"]
        self.packs = {
            part: PackDataset([Path(path) for path in paths], sample_rate=data["sample_rate"], seconds=data["seconds"])
            for part, paths in request["packs"].items()
        }
        self.layers: tuple[str, ...] = ()
        self.started = time.perf_counter()
        self.protocol = EvaluationProtocol(**self.config.get("base", self.config).get("evaluation", {}))
        self.class_map = ClassMap.from_csv(Path(request["class_map"])) if "class_map" in request else None
        if self.class_map is not None and self.class_map.digest != data["class_map_sha256"]:
            raise DataError(f"{self.class_map.source}: has changed since the sweep began; run `epanns sweep` again")
        self.protocol_in_words = self.protocol.describe()
        self.clip_seconds = data["seconds"]
        self.dense: dict[str, Predictions] = {}  # by part of the data
        self.clip_scores: ClipScores | None = None  # of the test clips at the last stage, where they are kept
        for part in _SCORED:
            refuse_leak(self.packs["train"], self.packs[part], part=part)

    def run_base(self) -> RunRecord:
        """Train the base, or load its checkpoint, and score it."""
        started = time.perf_counter()
        trained: dict[str, Any] = {}
        if self.request["checkpoint"]:
            model = load(self.request["checkpoint"]).to(self.device)
            self._match_classes(model)
        else:
            training = TrainingConfig.from_dict(self.config["training"])
            with random_state_kept():  # initial weights depend on the seed alone
                torch.manual_seed(derive_seed("weights", training.seed))
                name, labels = self.config["model"], self.packs["train"].labels
                if "yamnet_sha256" in self.config:
                    model = build_on_yamnet(name, load(self.request["yamnet"]), labels=labels)
                else:
                    model = build_model(name, width=self.config["width"], labels=labels)
            model, trained = self._train(model.to(self.device), training, self.folder.path / "base")
        stage = replace(self._stage("dense", model, time.perf_counter() - started), **trained)
        return self._record(model, model, None, (stage,))

    def run_pruned(self) -> RunRecord:
        """Prune, recover, fine-tune; score after each."""
        base = path_name(self.request["base"], f"{self.folder.path}/config.json: base", DataError)
        base_folder = TrialFolder(self.folder.path.parent / base)
        base_record = base_folder.read_record()
        dense = load(self.request["checkpoint"] or base_folder.path / "base").to(self.device)
        self._match_classes(dense)
        self.dense = {
            part: predict(dense, self.packs[part], self.protocol, same_classes=self.class_map is None)
            for part in _SCORED
        }
        as_scored = replace(base_record.stages[0], seconds=0.0, curve=(), best_step=None)
        model, plan, stages = dense, None, [as_scored]
        if self.config.get("ratio") != 0:
            model, pruned_stages = self._prune(dense)
            plan = model.provenance.plan  # from the unpruned network
            stages += pruned_stages
        if "finetune" in self.config:
            started = time.perf_counter()
            training = TrainingConfig.from_dict(self.config["finetune"])
            requested = self.config["finetune"].get("freeze_yamnet")
            training = frozen_in(training, requested, by_default=stays_frozen(dense.provenance))
            # A copy: the control, which is not pruned, trains the unpruned network itself.
            teacher = copy.deepcopy(dense) if self.config.get("teacher") == "dense" else None
            model, trained = self._train(model, training, self.folder.path / "finetuned", teacher)
            stages.append(replace(self._stage("finetuned", model, time.perf_counter() - started), **trained))
        return self._record(dense, model, plan, tuple(stages))

    def _prune(self, dense: Tagger) -> tuple[Tagger, list[Stage]]:
        """Return the pruned and recovered network and its stages; of several rounds, the stage after the last.

        One process chooses the channels and recovers: on GPUs, sums of another process could differ in their last bits.
        """
        started = time.perf_counter()
        clips = None
        if (n_clips := self.config.get("calibration_clips")) is not None:
            order = numpy_generator("calibration", self.config["seed"]).permutation(len(self.packs["train"]))
            clips = CalibrationClips.from_pack(self.packs["train"], order[:n_clips].tolist(), in_memory=True)
        planned = on_rank_zero(lambda: plan_and_cost(dense, pruning_of(self.config), clips)[0].to_dict())
        target, stages = PruningPlan.from_dict(planned), list[Stage]()
        self.layers = tuple(self.config.get("layers", target.ratios))
        recovering = None if clips is None or self.config["recover"] == "none" else self._recovery(clips)
        rounds = Rounds(self.config.get("steps", 1))
        if rounds.number == 1:
            model = apply_plan(dense, target)
            stages.append(self._stage("pruned", model, time.perf_counter() - started))
            if recovering is None:
                return model, stages
            started = time.perf_counter()
            report = on_rank_zero(lambda: recovering(model, dense, target))
        else:
            made: list[Tagger] = []

            def prune() -> list[Any]:
                pruned, found = prune_in_rounds(
                    dense, target, rounds, calibration=clips, recover=recovering, log=self.options.log
                )
                made.append(pruned)
                return [plan_between(dense, pruned).to_dict(), found]

            planned, report = on_rank_zero(prune)
            model = made[0] if made else apply_plan(dense, PruningPlan.from_dict(planned))
        share_tensors(model)
        if rank() == 0:
            shutil.rmtree(self._states, ignore_errors=True)
        stage = self._stage("pruned" if recovering is None else "recovered", model, time.perf_counter() - started)
        return model, [*stages, replace(stage, recovery=report or {})]

    @property
    def _states(self) -> Path:
        """Folder of the states of a recovery's gradient steps, of each round in a folder of its own."""
        return self.folder.path / "recovery"

    def _recovery(self, clips: CalibrationClips) -> Recover:
        def recovered(network: Tagger, before: Tagger, plan: PruningPlan) -> dict[str, Any] | None:
            settings = {"seed": self.config["seed"], **self.config.get("recovery", {})}
            run = RecoveryRun(self._states / plan.digest[:12], log=self.options.log, keeps_states=True)
            return recover(network, before, clips, self.config["recover"], plan=plan, run=run, **settings)

        return recovered

    def _match_classes(self, model: Tagger) -> None:
        """Order the classes of the packs as in a checkpoint."""
        self.packs = {part: in_the_models_order(model, pack) for part, pack in self.packs.items()}

    def _train(
        self, model: Tagger, training: TrainingConfig, out: Path, teacher: Tagger | None = None
    ) -> tuple[Tagger, dict[str, Any]]:
        """Train in a run folder; return the network with its best weights, and the curve and best step of its stage."""
        result = finetune(
            model,
            self.packs["train"],
            training,
            out,
            validation=validation_on(self.packs["val"], self.protocol),
            options=self.options,
            teacher=teacher,
        )
        return load(out).to(self.device), {"curve": result.curve, "best_step": result.best_step}

    def _stage(self, name: str, model: Tagger, seconds: float) -> Stage:
        scores = {}
        for part in _SCORED:
            predictions, found = score(model, self.packs[part], self.protocol, class_map=self.class_map)
            scores[part] = dict(found.summary())
            if part in self.dense:
                scores[part] |= agreement(
                    predictions, self.dense[part], model.labels, self.protocol, bootstrap=0
                ).summary()
            if part == "test" and self.request.get("keep_scores"):
                self.clip_scores = self._clip_scores(model, predictions)
            self.protocol_in_words = found.protocol
            self.clip_seconds = scored_seconds(self.packs[part], self.protocol, predictions)
        return Stage(name, scores, round(seconds, 3))

    def _clip_scores(self, model: Tagger, predictions: Predictions) -> ClipScores:
        """Return the scores of the test clips, with a class map those of its classes."""
        labels = self.packs["test"].labels
        if self.class_map is None:
            return predictions.to_clip_scores(labels)
        mapped = self.class_map.between(model.labels, labels)
        return zero_shot(predictions, mapped, self.protocol, bootstrap=0).predictions.to_clip_scores(mapped.labels)

    def _record(self, dense: Tagger, model: Tagger, plan: PruningPlan | None, stages: tuple[Stage, ...]) -> RunRecord:
        base = self.config.get("base", self.config)
        if (kept := self.clip_scores) is not None:  # before the record, which means that the trial is done
            on_rank_zero(lambda: write_clip_scores(self.folder.path / CLIP_SCORES, kept))
        return RunRecord(
            trial_id=self.folder.path.name,
            experiment=self.request["experiment"],
            model=dense.spec.name,
            width=base["width"] if "width" in base else recorded_width(dense, dense.spec),
            criterion=self.config.get("criterion"),
            layers=self.layers,
            ratio=self.config.get("ratio"),
            recover=self.config.get("recover", "none"),
            finetune_iterations=self.config.get("finetune", {}).get("iterations", 0),
            seed=self.config["seed"],
            dataset=self.packs["test"].dataset_name,
            protocol=self.protocol_in_words,
            clip_seconds=self.clip_seconds,
            config=self.config,
            plan_digest=None if plan is None else plan.digest,
            cost_before=profile(dense, seconds=self.clip_seconds).summary(),
            cost_after=profile(model, seconds=self.clip_seconds).summary(),
            stages=stages,
            device=device_of(model),
            versions=versions(*DECISIVE_PACKAGES),
            seconds=round(time.perf_counter() - self.started, 3),
            network=weights_digest(model),
            name=self.request.get("name", ""),
        )
