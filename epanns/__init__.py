"""Structured pruning of PANNs audio taggers; every name here is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "build_model": "epanns.models.zoo",
    "list_models": "epanns.models.zoo",
    "load": "epanns.models.files.load",
    "save": "epanns.models.files.checkpoint",
    "use_labels": "epanns.models.warm_start",
    "prune": "epanns.pruning.prune",
    "Budget": "epanns.pruning.budgets.budget",
    "recover": "epanns.pruning.recovery.recover",
    "prune_iteratively": "epanns.pruning.iterative_pruning",
    "check_optimizer": "epanns.pruning.prune",
    "profile": "epanns.complexity.macs",
    "evaluate": "epanns.evaluation.metrics",
    "agree": "epanns.stages.agreement",
    "predict": "epanns.evaluation.predict",
    "read_records": "epanns.reporting.frame",
    "compare": "epanns.reporting.comparison",
}

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from epanns.complexity.macs import profile as profile
    from epanns.evaluation.metrics import evaluate as evaluate
    from epanns.evaluation.predict import predict as predict
    from epanns.models.files.checkpoint import save as save
    from epanns.models.files.load import load as load
    from epanns.models.warm_start import use_labels as use_labels
    from epanns.models.zoo import build_model as build_model
    from epanns.models.zoo import list_models as list_models
    from epanns.pruning.budgets.budget import Budget as Budget
    from epanns.pruning.iterative_pruning import prune_iteratively as prune_iteratively
    from epanns.pruning.prune import check_optimizer as check_optimizer
    from epanns.pruning.prune import prune as prune
    from epanns.pruning.recovery.recover import recover as recover
    from epanns.reporting.comparison import compare as compare
    from epanns.reporting.frame import read_records as read_records
    from epanns.stages.agreement import agree as agree


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'epanns' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
