"""Forgetting, Dyn-Unc and DUAL: literal values, and slow versions as judge."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from lightning_alignprune.functional import (
    beta_log_weights,
    forgetting_events,
    mean_probability,
    window_uncertainty,
)

NAN = float("nan")


def rows(*samples):
    """One row per epoch of samples that are each given as their epochs."""
    return [torch.tensor(epoch) for epoch in zip(*samples, strict=True)]


def test_oracle_of_forgetting():
    seen = rows([0.0, 1, 0, 1, 1, 0], [0.0] * 6)
    assert forgetting_events(seen).tolist() == [2, 0]
    assert forgetting_events(seen, "max").tolist() == [2, 6]
    assert forgetting_events(rows([0.0, 0, 0, 0]), "max").tolist() == [4]


def test_an_epoch_that_did_not_see_a_sample_is_passed_over():
    assert forgetting_events(rows([1.0, NAN, 0.0], [1.0, NAN, 1.0])).tolist() == [1, 0]
    assert forgetting_events(rows([NAN, NAN]), "max").isnan().all()


def test_oracle_of_the_windows():
    seen = rows([0.1, 0.5, 0.9, 0.9])
    assert window_uncertainty(seen, 2).item() == pytest.approx(0.188562, abs=1e-6)
    assert window_uncertainty(seen, 2, True).item() == pytest.approx(0.094281, abs=1e-6)
    assert 10 * window_uncertainty(seen, 2).item() == pytest.approx(1.885618, abs=1e-5)


@given(st.integers(0, 30), st.integers(2, 6), st.booleans())
@settings(max_examples=30)
def test_windows_equal_the_slow_version(seed, window, favours_hard):
    generator = torch.Generator().manual_seed(seed)
    seen = torch.rand(6, 20, generator=generator)
    seen[torch.rand(6, 20, generator=generator) < 0.2] = NAN
    ours = window_uncertainty(list(seen), window, favours_hard)
    for i in range(20):
        parts = [seen[t : t + window, i] for t in range(7 - window)]
        parts = [part[~part.isnan()] for part in parts]
        values = [
            part.double().std().item() * (1 - part.mean().item() if favours_hard else 1)
            for part in parts
            if len(part) > 1
        ]
        expected = np.mean(values) if values else math.nan
        assert ours[i].item() == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_run_shorter_than_the_window_is_refused():
    with pytest.raises(ValueError, match="at least 10 recorded epochs, got 4"):
        window_uncertainty(rows([0.1, 0.5, 0.9, 0.9]))


def test_mean_of_what_was_seen():
    assert mean_probability(rows([0.5, NAN, 0.25])).item() == 0.375


@pytest.mark.parametrize(
    ("pruned", "b", "densities"),
    [(0.5, 8.4375, [0.2471, 2.7484, 3.0630, 0.0735]), (0.3, 8.9271, None)],
)
def test_oracle_of_the_beta_weights(pruned, b, densities):
    # The second has the largest score by far: mu_A is its mean, 0.4.
    means, scores = torch.tensor([0.2, 0.4, 0.5, 0.8]), torch.tensor([1.0, 9.0, 1.0, 1.0])
    ours = (beta_log_weights(means, scores, pruned, 4.0, num_hardest=1).exp() / scores).numpy()
    np.testing.assert_allclose(ours, beta.pdf(means.numpy(), 16 - b, b), rtol=1e-4)
    if densities:
        np.testing.assert_allclose(ours, densities, atol=5e-5)


def test_undefined_and_zero_scores_are_never_drawn():
    weights = beta_log_weights(torch.tensor([0.5, NAN, 0.5]), torch.tensor([1.0, NAN, 0.0]), 0.5)
    assert weights.isfinite().tolist() == [True, False, False]
    certain = beta_log_weights(torch.tensor([0.0, 1.0]), torch.ones(2), 0.5)
    assert certain.isfinite().all()


def test_the_more_is_pruned_the_easier_the_draw():
    means = torch.linspace(0.01, 0.99, 99)
    peaks = [
        means[beta_log_weights(means, torch.ones(99), pruned).argmax()].item()
        for pruned in (0.1, 0.6, 0.9)
    ]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[2]
