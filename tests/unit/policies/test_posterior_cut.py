"""`PosteriorCut`: when it begins, how it tightens, what it leaves."""

import dataclasses

import pytest
import torch

from lightning_alignprune import LossTrajectories, PosteriorCut, SelectionContext
from tests.banks import reloaded

N, NAN = 100, float("nan")


def context(reference=1.0, since=2, **changes):
    bank = LossTrajectories(N, window=1)
    bank.record(torch.arange(N), torch.zeros(N))
    bank.close_epoch(0, torch.tensor(reference))
    made = SelectionContext(5, 0, 0, torch.arange(N), bank, estimates_since_peak=since)
    return dataclasses.replace(made, **changes)


def posteriors():
    return torch.linspace(0.005, 0.995, N)  # P(right), so that 50 are wrong at 0.5


def cut(policy, *args, scores=None, **kwargs):
    scores = posteriors() if scores is None else scores
    return int((~policy.select(scores, context(*args, **kwargs)).kept).sum())


def test_it_waits_for_the_peak_of_the_noise_share():
    policy = PosteriorCut(readmit=0.0)
    assert [cut(policy, since=since) for since in (0, 1, 2, 0)] == [0, 0, 50, 50]
    assert cut(PosteriorCut(readmit=0.0), since=None) == 50  # a signal without estimates


def test_nothing_is_cut_where_no_noise_stands_out():
    policy, unknown = PosteriorCut(), torch.full((N,), NAN)
    assert cut(policy, scores=unknown) == 0
    assert policy.metrics() == {}
    some = posteriors()
    some[:20] = NAN
    assert cut(PosteriorCut(readmit=0.0), scores=some) == 30


def test_it_tightens_while_the_reference_loss_is_above_its_lowest():
    policy = PosteriorCut(max_wrong=0.8, tighten=0.5, least=0.15, readmit=0.0)
    found = [cut(policy, loss) for loss in (1.0, 0.9, 1.0, NAN, 1.0, 1.0, 0.8)]
    assert found == [20, 20, 60, 60, 80, 85, 85]
    assert policy.metrics() == {"threshold": 0.15}


def test_what_is_cut_comes_back_when_its_posterior_says_so():
    policy = PosteriorCut(readmit=0.0)
    assert cut(policy) == 50
    assert cut(policy, scores=posteriors().clamp_min(0.6)) == 0


def test_some_are_looked_at_again_but_not_at_the_end():
    assert 30 < cut(PosteriorCut(readmit=0.2)) < 49
    assert cut(PosteriorCut(readmit=0.2), is_finishing=True) == 50


def test_floors_of_all_and_of_each_class():
    labels = torch.arange(N) // 50  # all of class 0 is probably wrong
    policy = PosteriorCut(readmit=0.0, min_kept_per_class=0.2)
    kept = policy.select(posteriors(), context(labels=labels)).kept
    assert int(kept[:50].sum()) == 10
    assert kept[40:].all()
    bad = posteriors() / 10
    assert cut(PosteriorCut(readmit=0.0, min_kept=0.3), scores=bad) == 70


def test_state_round_trip():
    policy = PosteriorCut(max_wrong=0.8, tighten=0.5, readmit=0.0)
    for loss in (1.0, 1.2):
        cut(policy, loss)
    other = PosteriorCut(max_wrong=0.8, tighten=0.5, readmit=0.0)
    other.load_state_dict(reloaded(policy.state_dict()))
    assert cut(other, 1.2, since=0) == cut(policy, 1.2, since=0)
    assert other.threshold == policy.threshold == 0.2


@pytest.mark.parametrize(
    "change",
    [
        {"max_wrong": 1.0},
        {"tighten": 0.0},
        {"least": 0.0},
        {"patience": -1},
        {"readmit": 1.0},
        {"min_kept": 0.0},
        {"min_kept_per_class": 1.5},
    ],
)
def test_options_are_checked(change):
    with pytest.raises(ValueError, match=f"PosteriorCut: expected {next(iter(change))}"):
        PosteriorCut(**change)
