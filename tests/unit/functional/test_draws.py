import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_alignprune.functional import draw_fixed_count, draw_seed, sample_keys, uniform

seeds = st.integers(-(2**70), 2**70)


@given(seeds, st.integers(0, 10**6), st.integers(0, 3))
@settings(max_examples=30)
def test_keys_are_distinct_and_belong_to_the_sample(seed, epoch, stream):
    keys = sample_keys(torch.arange(500), seed, epoch, stream)
    assert len(torch.unique(keys)) == 500
    some = torch.tensor([17, 3, 499])
    assert torch.equal(sample_keys(some, seed, epoch, stream), keys[some])


def test_keys_differ_by_seed_epoch_and_stream():
    indices = torch.arange(100)
    base = sample_keys(indices, 0, 1, 0)
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert not (sample_keys(indices, *other) == base).any()


def test_global_generators_are_left_alone():
    state = torch.get_rng_state()
    uniform(torch.arange(10), 0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_uniform_is_uniform_and_epochs_are_independent():
    a, b = (uniform(torch.arange(100_000), 0, epoch) for epoch in (1, 2))
    assert float(a.min()) >= 0
    assert float(a.max()) < 1
    counts = torch.histc(a, 10, 0, 1)
    assert float((counts - 10_000).abs().max()) < 500
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.02


def test_seed_is_below_2_to_63():
    assert all(0 <= draw_seed(s, e) < 2**63 for s in (-5, 0, 2**64) for e in (0, 1))


@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 3))
@settings(max_examples=60)
def test_histograms_over_ranks_draw_the_same(count, seed, epoch):
    candidates, indices = torch.arange(50) % 3 > 0, torch.arange(50)
    alone = draw_fixed_count(candidates, count, indices, seed, epoch)
    ranks = draw_fixed_count(candidates, count, indices, seed, epoch, all_reduce=lambda t: t)
    assert torch.equal(alone, ranks)
    assert int(alone.sum()) == min(count, int(candidates.sum()))
    assert not (alone & ~candidates).any()


def test_each_candidate_is_drawn_equally_often():
    indices, candidates = torch.arange(10), torch.ones(10, dtype=torch.bool)
    drawn = [draw_fixed_count(candidates, 7, indices, 0, e) for e in range(3_000)]
    frequency = torch.stack(drawn).float().mean(0)
    assert frequency.tolist() == pytest.approx([0.7] * 10, abs=0.04)
