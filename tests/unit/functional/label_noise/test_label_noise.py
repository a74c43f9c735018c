"""Label noise: published oracles, exact rates, and what must hold for any input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_alignprune.functional import (
    NOISE_MODELS,
    apply_label_noise,
    asymmetric_cifar10,
    asymmetric_cifar100,
    asymmetric_next,
    pairflip,
    symmetric_inclusive,
    symmetric_next,
    symmetric_uniform,
)
from lightning_alignprune.functional.label_noise.asymmetric import (
    CIFAR100_SUPERCLASSES,
    next_in_group,
)

NUM_CLASSES = {"asymmetric_cifar10": 10, "asymmetric_cifar100": 100}


def balanced(num_classes: int, size: int) -> torch.Tensor:
    return torch.arange(num_classes).repeat_interleave(size)


# ---- oracles ------------------------------------------------------------------------------------


def test_symmetric_uniform_changes_exactly_half_of_50000_evenly_over_the_wrong_classes() -> None:
    clean = balanced(10, 5000)
    noisy, mask = symmetric_uniform(clean, 10, 0.5, seed=0)
    assert int(mask.sum()) == 25_000
    assert not (noisy[mask] == clean[mask]).any()
    offsets = torch.bincount((noisy - clean)[mask] % 10, minlength=10)
    assert offsets[0] == 0
    # 25,000 draws over nine classes: mean 2,778, standard deviation 50.
    assert (offsets[1:] - 25_000 / 9).abs().max() < 4 * 50


@pytest.mark.parametrize(("num_classes", "rate", "realised"), [(10, 0.5, 0.45), (100, 0.8, 0.792)])
def test_symmetric_inclusive_loses_the_share_that_hits_the_right_class(
    num_classes: int, rate: float, realised: float
) -> None:
    _, mask = symmetric_inclusive(
        balanced(num_classes, 50_000 // num_classes), num_classes, rate, 0
    )
    assert mask.float().mean().item() == pytest.approx(realised, abs=0.004)


def test_symmetric_next_takes_the_floor_of_every_class() -> None:
    clean = torch.tensor([0] * 7 + [1] * 4 + [2] * 1)
    noisy, mask = symmetric_next(clean, 3, 0.5, seed=0)
    assert [int(mask[clean == c].sum()) for c in range(3)] == [3, 2, 0]
    assert torch.equal(noisy[mask], (clean[mask] + 1) % 3)


def test_symmetric_next_counts_29_percent_of_100_as_29() -> None:
    assert int(symmetric_next(balanced(2, 100), 2, 0.29, seed=0)[1].sum()) == 58


def test_asymmetric_cifar10_at_40_percent_makes_20_percent_wrong() -> None:
    clean = balanced(10, 5000)
    noisy, mask = asymmetric_cifar10(clean, 0.4, seed=0)
    assert int(mask.sum()) == 10_000
    for source, target in {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}.items():
        moved = mask & (clean == source)
        assert int(moved.sum()) == 2000
        assert set(noisy[moved].tolist()) == {target}


def test_superclass_table_gives_the_published_cycles_and_checksum() -> None:
    following = next_in_group(CIFAR100_SUPERCLASSES)
    cycle = [4]
    for _ in range(5):
        cycle.append(following[cycle[-1]])
    assert cycle == [4, 30, 55, 72, 95, 4]
    assert following[0] == 51
    assert sum(fine * following[fine] for fine in range(100)) == 266_106
    assert all(CIFAR100_SUPERCLASSES.count(coarse) == 5 for coarse in range(20))


def test_asymmetric_cifar100_stays_within_the_superclass_with_exact_counts() -> None:
    clean = balanced(100, 500)
    noisy, mask = asymmetric_cifar100(clean, 0.4, seed=3)
    coarse = torch.tensor(CIFAR100_SUPERCLASSES)
    assert torch.equal(coarse[clean], coarse[noisy])
    assert torch.bincount(clean[mask], minlength=100).unique().tolist() == [200]


@pytest.mark.parametrize("draw", [pairflip, asymmetric_next])
def test_next_class_noise_draws_an_exact_global_share(draw) -> None:
    clean = balanced(1000, 5)
    noisy, mask = draw(clean, 1000, 0.2, seed=0)
    assert int(mask.sum()) == 1000
    assert torch.equal(noisy[mask], (clean[mask] + 1) % 1000)


# ---- what must hold for every model -------------------------------------------------------------


@given(
    kind=st.sampled_from(NOISE_MODELS),
    values=st.lists(st.integers(0, 9), max_size=60),
    rate=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_any_model_is_seeded_private_and_tells_what_it_changed(kind, values, rate, seed) -> None:
    clean = torch.tensor(values, dtype=torch.int64)
    before = clean.clone()
    global_state = torch.get_rng_state()
    num_classes = NUM_CLASSES.get(kind, 10)
    noisy, mask = apply_label_noise(clean, kind, rate, seed, num_classes)
    again, _ = apply_label_noise(clean, kind, rate, seed, num_classes)
    assert torch.equal(noisy, again)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(clean, before)
    assert torch.equal(mask, noisy != clean)
    assert noisy.dtype == clean.dtype
    assert bool(((noisy >= 0) & (noisy < num_classes)).all())
    if kind in ("symmetric_uniform", "pairflip", "asymmetric_next"):
        assert int(mask.sum()) == round(rate * len(clean))
    else:
        assert int(mask.sum()) <= rate * len(clean) + num_classes / 2


@pytest.mark.parametrize("kind", NOISE_MODELS)
def test_another_seed_gives_other_labels(kind: str) -> None:
    num_classes = NUM_CLASSES.get(kind, 10)
    clean = balanced(num_classes, 20)
    first, _ = apply_label_noise(clean, kind, 0.5, 0, num_classes)
    second, _ = apply_label_noise(clean, kind, 0.5, 1, num_classes)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", NOISE_MODELS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_narrow_integer_labels_keep_their_dtype(kind: str, dtype: torch.dtype) -> None:
    num_classes = NUM_CLASSES.get(kind, 10)
    clean = balanced(num_classes, 4)
    wide, _ = apply_label_noise(clean, kind, 0.5, 0, num_classes)
    narrow, _ = apply_label_noise(clean.to(dtype), kind, 0.5, 0, num_classes)
    assert narrow.dtype == dtype
    assert torch.equal(narrow.long(), wide)


def test_eight_bit_labels_do_not_overflow_with_many_classes() -> None:
    clean = torch.arange(200, dtype=torch.uint8)
    narrow, _ = symmetric_uniform(clean, 200, 1.0, seed=0)
    wide, _ = symmetric_uniform(clean.long(), 200, 1.0, seed=0)
    assert torch.equal(narrow.long(), wide)


# ---- errors -------------------------------------------------------------------------------------


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected kind to be one of 'symmetric_uniform'.*'symm'"):
        apply_label_noise(torch.zeros(2, dtype=torch.long), "symm", 0.1, 0, 10)


def test_a_cifar_map_refuses_other_class_counts() -> None:
    with pytest.raises(ValueError, match=r"num_classes to be 10 for 'asymmetric_cifar10', got 100"):
        apply_label_noise(torch.zeros(2, dtype=torch.long), "asymmetric_cifar10", 0.1, 0, 100)


@pytest.mark.parametrize("kind", NOISE_MODELS)
@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_outside_the_unit_interval_is_refused(kind: str, rate: float) -> None:
    with pytest.raises(ValueError, match=rf"{kind}: expected rate in \[0, 1\]"):
        apply_label_noise(
            torch.zeros(2, dtype=torch.long), kind, rate, 0, NUM_CLASSES.get(kind, 10)
        )


def test_a_label_out_of_range_is_named_with_its_index() -> None:
    with pytest.raises(ValueError, match=r"labels in \[0, 2\], got 7 at index 1"):
        pairflip(torch.tensor([0, 7, 9]), 3, 0.5, 0)


@pytest.mark.parametrize(
    "labels", [torch.zeros(2), torch.zeros(2, 2, dtype=torch.long), torch.zeros(2) > 0]
)
def test_labels_that_are_no_class_indices_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected labels of shape \(N,\) and an integer dtype"):
        symmetric_uniform(labels, 2, 0.5, 0)
