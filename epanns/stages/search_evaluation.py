"""The networks of a search: pruned to a proposal, recovered and scored; each has a run record."""

import time
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from epanns.complexity.macs import profile
from epanns.data.batches.compatibility import in_the_models_order
from epanns.data.batches.dataset import ClipBatch, PackDataset
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.packages import versions
from epanns.process import StopRequest
from epanns.pruning.budgets.allocators import ByShares
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.widths_for_budget import Allocation, BudgetResult, widths_for_budget
from epanns.pruning.calibration_clips import CalibrationClips
from epanns.pruning.prune import apply_plan
from epanns.pruning.ranking.criteria import most_important
from epanns.pruning.ranking.importance import channel_importance
from epanns.pruning.recovery.recover import recover
from epanns.records import DECISIVE_PACKAGES, RunRecord, Stage
from epanns.seeding import numpy_generator
from epanns.stages.score import device_of, recorded_width, split_of
from epanns.stages.scorer import Scorer
from epanns.stages.search_space import COSTS, Proposal, SearchConfig, SearchSpace


class Evaluation:
    """The unpruned network, the clips and the importance of its channels, which all networks share."""

    def __init__(
        self,
        model: Tagger,
        packs: tuple[PackDataset, PackDataset],
        config: SearchConfig,
        space: SearchSpace,
        stop: StopRequest,
    ) -> None:
        self.model, self.config, self.space, self.dataset = model, config, space, packs[0]
        self.scorer = Scorer(
            model, packs[0], config.score, class_map=config.class_map, progress=lambda *_: stop.raise_if_stopped()
        )
        self._cost = profile(model, seconds=self.dataset.clip_seconds).summary()
        self._dense: Stage | None = None
        self._importance: dict[str, Mapping[str, Tensor]] = {}  # criterion -> layer -> importance of its filters

        def until_stopped(batches: Iterable[ClipBatch], *_: object) -> Iterator[ClipBatch]:
            for batch in batches:
                stop.raise_if_stopped()
                yield batch

        pack = in_the_models_order(model, packs[1])
        order = numpy_generator("calibration", config.seed).permutation(len(pack))[: config.calibration_clips]
        self._clips = CalibrationClips.from_pack(pack, order.tolist(), in_memory=True, progress=until_stopped)

    @property
    def unpruned_cost(self) -> float:
        """Cost of the unpruned network, of the kind of the budget and for 10 s of sound."""
        return float(profile(self.model).summary()[COSTS[self.space.kind]])

    @property
    def dense(self) -> Stage:
        """The scores of the unpruned network."""
        if self._dense is None:
            scores = {split_of(self.dataset): self.scorer.summary(self.model)}
            self._dense = Stage("dense", scores, 0.0)
        return self._dense

    def importance(self, criterion: str) -> Mapping[str, Tensor]:
        """Return the importance of the filters of all layers."""
        if criterion not in self._importance:
            layers = [layer for group in self.space.groups.values() for layer in group]
            self._importance[criterion] = channel_importance(
                self.model, layers, criterion=criterion, seed=self.config.seed, calibration=self._clips
            )
        return self._importance[criterion]

    def plan(self, proposal: Proposal) -> tuple[PruningPlan, BudgetResult]:
        """Return the plan of a proposal, whose network is within its budget.

        Raises:
            PruningError: If no widths come within 1 % of the budget.
        """
        spec = self.model.spec
        budget = Budget(self.space.kind, proposal.budget)
        layers = tuple(layer for layer in self.model.layer_names if layer in proposal.shares)
        importance = self.importance(proposal.criterion)
        allocation = Allocation(
            layers, ByShares(proposal.shares), self.config.round_to, lambda layer: importance[layer]
        )
        reached = widths_for_budget(spec, budget, allocation)
        kept = {layer: most_important(importance[layer], width, layer=layer) for layer, width in reached.widths.items()}
        ratios = {layer: 1 - len(channels) / spec.widths[layer] for layer, channels in kept.items()}
        return PruningPlan(spec, kept, proposal.criterion, ratios, self.config.seed), reached

    def evaluate(
        self, proposal: Proposal, plan: PruningPlan, reached: BudgetResult, number: int, trial_id: str
    ) -> tuple[Tagger, RunRecord]:
        """Prune, recover and score; return the network and its record."""
        started, model, config = time.perf_counter(), self.model, self.config
        network = apply_plan(model, plan)
        network.provenance = reached.recorded(network.provenance)
        recover(network, model, self._clips, proposal.recover, plan=plan, seed=config.seed)
        seconds = round(time.perf_counter() - started, 3)
        name = "pruned" if proposal.recover == "none" else "recovered"
        stage = Stage(name, {split_of(self.dataset): self.scorer.summary(network)}, seconds)
        length = self.dataset.clip_seconds
        record = RunRecord(
            trial_id=trial_id,
            experiment="search",
            model=model.spec.name,
            width=recorded_width(model, model.spec),
            criterion=proposal.criterion,
            layers=tuple(plan.kept_channels),
            ratio=None,
            recover=proposal.recover,
            finetune_iterations=0,
            seed=config.seed,
            dataset=self.dataset.dataset_name,
            protocol=self.scorer.protocol,
            clip_seconds=length,
            config={
                "kind": "pruned",
                "base": {"kind": "base", "checkpoint_sha256": model.provenance.sha256},
                "budget": f"{self.space.kind} {proposal.budget:g}",
                "criterion": proposal.criterion,
                "recover": proposal.recover,
                "calibration_clips": config.calibration_clips,
                "seed": config.seed,
                "search": {"trial": number},
            },
            plan_digest=plan.digest,
            cost_before=self._cost,
            # The MACs of the budget are those of 10 s of sound, the others those of a scored clip.
            cost_after={
                **profile(network, seconds=length).summary(),
                "budget": reached.to_dict(),
                "widths": dict(network.spec.widths),
            },
            stages=(self.dense, stage),
            device=device_of(model),
            versions=versions(*DECISIVE_PACKAGES, "optuna"),
            seconds=round(time.perf_counter() - started, 3),
            network=weights_digest(network),
        )
        return network, record
