"""The networks that `epanns search` chooses from, and the study that proposes the next one (Optuna).

No other module imports optuna, and this one only while it searches.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from epanns.errors import ConfigError
from epanns.evaluation.class_map import ClassMap
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.packages import can_import, install_command
from epanns.pruning.budgets.allocators import Uniform
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.widths_for_budget import Allocation, widths_for_budget
from epanns.pruning.config import select_layers
from epanns.pruning.ranking.criteria import criterion_named
from epanns.pruning.recovery.batch_norm_reestimation import refuse_folded
from epanns.pruning.recovery.recover import recovery_problem
from epanns.seeding import derive_seed
from epanns.strict import error_messages

JOURNAL = "study.journal"
COSTS = {"macs": "backbone_macs", "params": "n_params", "bytes": "param_bytes"}  # kind of budget -> key of a cost

_GROUP = re.compile(r"(.*?\d+)(?:\..*)?")  # the block of a layer: `conv_block4` of `conv_block4.conv1`
_LEAST_SHARE = 0.05
_PROBLEM = "problem"  # attribute of a proposal that no network fits


class Proposal(NamedTuple):
    """A network to evaluate: its largest cost, as a fraction, and how it is pruned and recovered."""

    budget: float
    shares: Mapping[str, float]
    criterion: str
    recover: str


@dataclass(frozen=True)
class BudgetRange:
    """The range of costs of a search.

    Attributes:
        kind: A key of `COSTS`.
        least: Lowest budget, a fraction of the unpruned network's cost or a cost.
        most: Highest budget, likewise.
    """

    kind: str
    least: Budget
    most: Budget

    @classmethod
    def parse(cls, text: str) -> "BudgetRange":
        """Read a range such as ``macs:0.1..0.5`` or ``params:1M..20M``.

        Raises:
            ConfigError: If the text is no range of one of the kinds.
            PruningError: If an end is no budget of the kind.
        """
        kind, _, ends = text.partition(":")
        least, dots, most = ends.partition("..")
        if kind not in COSTS or not dots:
            raise ConfigError(f"budget {text!r}: must be a kind ({', '.join(COSTS)}) and a range, as macs:0.1..0.5")
        return cls(kind, Budget.parse(kind, least), Budget.parse(kind, most))

    def fractions(self, unpruned: float) -> tuple[float, float]:
        """Return both ends as fractions of the unpruned network's cost.

        Raises:
            ConfigError: If they do not rise, or the highest is not below 1.
        """
        least, most = (float(budget.limit(unpruned)) / unpruned for budget in (self.least, self.most))
        if not 0 < least < most < 1:
            raise ConfigError(
                f"budget of {least:.3g} to {most:.3g} of the unpruned network's {self.kind}: must rise and be below 1"
            )
        return least, most


@dataclass(frozen=True)
class SearchSpace:
    """What a search varies.

    Attributes:
        kind: Kind of the budget.
        least: Lowest budget, as a fraction of the unpruned network's cost.
        most: Highest budget, likewise.
        groups: Name -> layers, whose widths keep one ratio.
        criteria: Names of criteria.
        recoveries: Names of recoveries.
    """

    kind: str
    least: float
    most: float
    groups: Mapping[str, Sequence[str]]
    criteria: Sequence[str]
    recoveries: Sequence[str]

    def __post_init__(self) -> None:
        for name in self.criteria:
            criterion_named(name)
        problems = [problem for name in self.recoveries if (problem := recovery_problem(name))]
        problems += [f"{what}: give at least one" for what in ("criteria", "recoveries") if not getattr(self, what)] + [
            f"{what}: {', '.join(given)}: give each once"
            for what in ("criteria", "recoveries")
            if len(set(given := getattr(self, what))) < len(given)
        ]
        if problems:
            raise ConfigError("; ".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        groups = {name: list(layers) for name, layers in self.groups.items()}
        ends = {"kind": self.kind, "least": self.least, "most": self.most}
        return {**ends, "groups": groups, "criteria": list(self.criteria), "recoveries": list(self.recoveries)}

    def first_proposals(self) -> list[dict[str, Any]]:
        """Return the values of the first proposals: one ratio for all layers, at both ends and in the middle."""
        middle = round((self.least * self.most) ** 0.5, 4)
        shares = {f"share {name}": 1.0 for name in self.groups}
        last = {"criterion": self.criteria[-1], "recover": self.recoveries[-1]}
        return [{"budget": budget, **shares, **last} for budget in (self.most, middle, self.least)]

    def propose(self, trial: Any) -> Proposal:
        """Return the proposal of a trial of Optuna."""
        budget = trial.suggest_float("budget", self.least, self.most, log=True)
        by_group = {name: trial.suggest_float(f"share {name}", _LEAST_SHARE, 1.0, log=True) for name in self.groups}
        return Proposal(
            round(budget, 4),
            {layer: round(by_group[name], 3) for name, layers in self.groups.items() for layer in layers},
            trial.suggest_categorical("criterion", list(self.criteria)),
            trial.suggest_categorical("recover", list(self.recoveries)),
        )


def groups_of(layers: Sequence[str]) -> dict[str, list[str]]:
    """Return block -> layers: names up to the first number, as ``conv_block4`` and ``features.11``."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        match = _GROUP.fullmatch(layer)
        groups.setdefault(match[1] if match else layer, []).append(layer)
    return groups


def reachable(spec: ModelSpec, layers: Sequence[str], budgets: BudgetRange, round_to: int) -> tuple[float, float]:
    """Return the ends of a range as fractions, each of which a network of one ratio for all layers meets.

    Raises:
        ConfigError: If the range is invalid.
        PruningError: If an end cannot be met; the message has the costs that can be reached.
    """
    allocation = Allocation(tuple(layers), Uniform(), round_to, lambda layer: _no_importance())
    highest = widths_for_budget(spec, budgets.most, allocation)
    widths_for_budget(spec, budgets.least, allocation)
    return budgets.fractions(highest.unpruned)


def _no_importance() -> Any:
    raise AssertionError("one ratio for all layers ranks no channel")


@dataclass(frozen=True)
class SearchConfig:
    """Settings of a search.

    Attributes:
        budgets: Range of costs.
        criteria: Names of criteria to choose from.
        recoveries: Names of recoveries to choose from; None for ``bn`` and ``ls``, or for ``none`` and ``ls`` where the
            network has folded batch norms.
        layers: Names of layers or blocks that may lose channels; None for every prunable layer.
        round_to: Multiple to which the widths of pruned layers are rounded.
        score: ``agreement``, the mAP of the unpruned network's own tags, without labels; or ``mAP`` on labels.
        class_map: For ``mAP`` on clips of other classes.
        calibration_clips: Largest number of clips for recoveries and for criteria that measure clips.
        seed: Seed of the proposals, of criteria that draw numbers, of recoveries and of the calibration clips.
        trials: Number of proposals, over all calls; a finished search continues with more.
    """

    budgets: BudgetRange
    criteria: Sequence[str] = ("l1", "activation")
    recoveries: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    round_to: int = 1
    score: str = "agreement"
    class_map: ClassMap | None = None
    calibration_clips: int = 256
    seed: int = 0
    trials: int = 50

    def space(self, model: Tagger) -> SearchSpace:
        """Return what is varied in a network.

        Raises:
            ConfigError: If the range, a criterion or a recovery is invalid.
            PruningError: If a layer is unknown, or an end of the range cannot be met.
        """
        layers: Sequence[str] = model.layer_names
        if self.layers is not None:
            layers = select_layers(self.layers, prunable=model.layer_names, protected={})
        recoveries = self.recoveries
        if recoveries is None:
            recoveries = ("none", "ls") if error_messages(partial(refuse_folded, model)) else ("bn", "ls")
        least, most = reachable(model.spec, layers, self.budgets, self.round_to)
        return SearchSpace(self.budgets.kind, least, most, groups_of(layers), self.criteria, recoveries)


class Study:
    """A study of Optuna in a journal file: it proposes networks, and gets their cost and score.

    Proposals depend on the space, the seed and the outcomes alone, so that a search that was killed and resumed
    proposes the same networks as one that was not.
    """

    def __init__(self, folder: Path, space: SearchSpace, seed: int) -> None:
        """Open or begin the study of a folder.

        Raises:
            ConfigError: If optuna is missing.
        """
        require_optuna()
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._seed = space, seed
        _mend(folder / JOURNAL)
        backend = JournalFileBackend(str(folder / JOURNAL))
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="search",
            directions=["minimize", "maximize"],
            load_if_exists=True,
        )
        self._failed = optuna.trial.TrialState.FAIL
        self._trial: Any = None
        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=self._failed)  # a process was killed; the network is proposed again

    @property
    def n_done(self) -> int:
        """Number of proposals with an outcome."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(trial.values is not None or _PROBLEM in trial.user_attrs for trial in trials)

    def ask(self) -> Proposal:
        """Return the next proposal."""
        import optuna

        n_done, first = self.n_done, self._space.first_proposals()
        seed = derive_seed("search", self._seed, n_done) % 2**32
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        if n_done < len(first):
            self._study.enqueue_trial(first[n_done])
        self._trial = self._study.ask()
        return self._space.propose(self._trial)

    def tell(self, cost: float, score: float) -> None:
        """Store the cost and the score of the last proposal."""
        self._study.tell(self._trial, [cost, score])

    def refuse(self, problem: str) -> None:
        """Store that no network fits the last proposal, and why."""
        self._trial.set_user_attr(_PROBLEM, problem)
        self._study.tell(self._trial, state=self._failed)

    def problems(self) -> list[str]:
        """Return why proposals had no network, one line each."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial.user_attrs[_PROBLEM] for trial in trials if _PROBLEM in trial.user_attrs]


def _mend(journal: Path) -> None:
    """Remove what a killed process leaves: a lock, for which Optuna would wait, and the beginning of a line."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)  # the caller holds the lock of the folder
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def require_optuna() -> None:
    """Raise `ConfigError` with the command that installs optuna, if it is missing."""
    if not can_import("optuna"):
        raise ConfigError(f"epanns search needs optuna: {install_command('search')}")
