"""The training pack, and networks with its classes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.data.batches.dataset import PackDataset
from epanns.labels import LabelSet
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from tests.builders import make_network


@pytest.fixture
def train(tiny_packs: dict[str, Path]) -> PackDataset:
    return PackDataset([tiny_packs["train"]])


@pytest.fixture
def make_model(tiny_spec: ModelSpec, train: PackDataset) -> Callable[..., Tagger]:
    """Return a function that builds `tiny_spec`, with changed fields, in training mode."""

    def make(seed: int = 0, *, labels: LabelSet | None = None, **changes: object) -> Tagger:
        return make_network(replace(tiny_spec, **changes), labels or train.labels, seed=seed).train()

    return make
