"""Seeds are pure functions of their purpose."""

from contextlib import nullcontext

import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.seeding import derive_seed, numpy_generator, random_state_kept, torch_generator

parts = st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=4)


@given(parts, parts)
def test_seeds_differ_where_purposes_differ(one, other):
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)
    assert 0 <= derive_seed(*one) < 2**63


def test_a_number_and_its_text_are_different_purposes():
    assert derive_seed(1) != derive_seed("1")


def test_a_seed_is_the_same_in_every_process_and_version():
    assert derive_seed("mixup", 3, 14) == 805_139_629_686_327_495


def test_generators_repeat():
    assert numpy_generator("a", 1).random() == numpy_generator("a", 1).random()
    assert torch.equal(torch.rand(3, generator=torch_generator("a")), torch.rand(3, generator=torch_generator("a")))


def test_the_random_state_is_restored():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with random_state_kept():
        torch.manual_seed(2)
        torch.rand(5)
    assert torch.equal(torch.rand(3), wanted)


def test_the_random_state_of_unused_gpus_is_not_read(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: asked.append(devices) or nullcontext())
    for device in ("cpu", "cuda:1"):
        with random_state_kept(device):
            pass
    assert asked == [[], ["cuda:1"]]
