import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_alignprune.functional import alignment, mean_trajectory
from tests import oracles

U = torch.tensor([2.0, 1.5, 1.0, 0.5])
V = torch.tensor([[2.2, 1.4, 1.1, 0.4], [0.5, 0.6, 0.9, 1.2], [2.0, 2.4, 1.8, 2.2], [1.0] * 4]).T
NAN = float("nan")


def some(T=12, N=50, seed=0, missing=0.0):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(T, N, generator=generator) * 3
    losses[torch.rand(T, N, generator=generator) < missing] = NAN
    return losses, torch.rand(T, generator=generator).sort(descending=True).values


def test_oracles():
    pearson = alignment(V, U)
    assert pearson[:2].tolist() == pytest.approx([0.987022, -0.979796], abs=1e-6)
    assert pearson[2].item() == pytest.approx(0.0, abs=1e-6)
    assert pearson[3].isnan()
    cosine = alignment(V, U, correlation="cosine")
    assert cosine[:3].tolist() == pytest.approx([0.996444, 0.734117, 0.907740], abs=1e-6)


def test_oracles_of_the_missing_epoch():
    u = torch.tensor([2.0, 0.8, 1.6, 0.5])
    v = torch.tensor([[2.2], [1.4], [NAN], [0.4]])
    observed = alignment(v, u, min_observations=3)
    assert observed.item() == pytest.approx(0.922018, abs=1e-6)
    assert alignment(v, u, missing="carry").item() == pytest.approx(0.875627, abs=1e-6)
    assert alignment(v, u).isnan().item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_equals_scipy(missing, dtype):
    losses, reference = some(missing=missing)
    expected = oracles.pearson_alignment(losses.numpy(), reference.numpy())
    np.testing.assert_allclose(alignment(losses.to(dtype), reference), expected, atol=2e-5)


def test_carry_equals_scipy_on_filled_rows():
    losses, reference = some(missing=0.5)
    before = torch.where(torch.arange(50) % 2 == 0, 1.7, NAN)
    filled = oracles.carried(losses.numpy(), before.numpy())
    expected = oracles.pearson_alignment(filled, reference.numpy())
    np.testing.assert_allclose(
        alignment(losses, reference, missing="carry", before=before), expected, atol=2e-5
    )


def test_two_points_always_correlate_perfectly():
    falling_rising = torch.tensor([[1.0, 0.4], [0.9, 0.5]])
    scores = alignment(falling_rising, torch.tensor([2.0, 1.0]), min_observations=2)
    assert scores.tolist() == pytest.approx([1.0, -1.0])


@given(st.floats(0.1, 100), st.floats(-50, 50), st.integers(0, 5))
@settings(max_examples=40)
def test_scale_and_shift_do_not_matter(scale, shift, seed):
    losses, reference = some(seed=seed, missing=0.2)
    moved = alignment(losses * scale + shift, reference * scale - shift)
    torch.testing.assert_close(
        moved, alignment(losses, reference), atol=2e-3, rtol=0, equal_nan=True
    )


def test_permuting_samples_permutes_scores():
    losses, reference = some(missing=0.3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    expected = alignment(losses, reference)[order]
    torch.testing.assert_close(alignment(losses[:, order], reference), expected, equal_nan=True)


def test_chunks_do_not_matter(monkeypatch):
    losses, reference = some(missing=0.3)
    expected = alignment(losses, reference)
    module = sys.modules["lightning_alignprune.functional.alignment"]
    monkeypatch.setattr(module, "CHUNK_SAMPLES_CPU", 7)
    torch.testing.assert_close(alignment(list(losses), reference), expected, equal_nan=True)


def test_undefined_where_there_is_nothing_to_compare():
    losses, reference = some()
    assert alignment(losses[:1], reference[:1]).isnan().all()
    assert alignment(losses, torch.ones(12)).isnan().all()
    assert alignment(losses, torch.full((12,), NAN)).isnan().all()
    constant = torch.full((12, 1), 1e4)
    assert alignment(constant, reference).isnan().all()


def test_epochs_without_a_reference_do_not_count():
    losses, reference = some()
    gap = reference.clone()
    gap[3] = NAN
    others = [t for t in range(12) if t != 3]
    torch.testing.assert_close(alignment(losses, gap), alignment(losses[others], reference[others]))


def test_half_precision_rows():
    losses, reference = some()
    half = alignment(losses.half(), reference)
    torch.testing.assert_close(half, alignment(losses, reference), atol=5e-3, rtol=0)
    assert half.dtype == torch.float32


def test_mean_trajectory():
    rows = torch.tensor([[1.0, NAN, NAN], [3.0, 5.0, NAN]])
    assert mean_trajectory(rows)[:2].tolist() == [2.0, 5.0]
    assert mean_trajectory(list(rows))[2].isnan()


def test_refusals():
    with pytest.raises(ValueError, match="got 3 and 4"):
        alignment(V, U[:3])
    with pytest.raises(ValueError, match="at least one recorded epoch"):
        alignment([], torch.empty(0))
