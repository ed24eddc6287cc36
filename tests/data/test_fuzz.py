"""Changed packs give an error or the right clips; see `fuzz_packs`, which runs longer by hand."""

import pytest

from tests.data.fuzz_packs import HAS_CHECKSUMS, KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_mutants_of_every_format(kind, tmp_path):
    counts = fuzz(kind, tmp_path, 60, seed=0)
    assert sum(counts.values()) == 60
    assert counts["refused"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants_of_every_format(kind, tmp_path):
    counts = fuzz(kind, tmp_path, 500, seed=1000)
    assert counts["refused"] > 100
    assert kind not in HAS_CHECKSUMS or not counts["other"]
