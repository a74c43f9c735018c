import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_alignprune.functional import (
    draw_fixed_count,
    draw_largest,
    full_selection,
    infobatch_selection,
)
from tests.in_two_shards import in_two_shards

NAN = float("nan")


def infobatch(scores, r=0.5, epoch=1, **kwargs):
    return infobatch_selection(
        torch.as_tensor(scores), r, torch.arange(len(scores)), 0, epoch, **kwargs
    )


def test_infobatch_oracles():
    kept, weights = infobatch([0.1, 0.2, 0.3, 0.4, 2.0])
    assert int(kept.sum()) == 3
    assert kept[4]
    assert sorted(weights[kept].tolist()) == [1.0, 2.0, 2.0]
    kept, weights = infobatch([0.1, 0.2, 0.3, 0.4, 0.5, 6.0])
    assert int(kept[:5].sum()) == 2
    assert weights[kept].sum() == 6.0
    kept, weights = infobatch([0.9, 0.8, 0.7, -0.5, -0.9])  # DAS
    assert int(kept.sum()) == 4
    assert weights[3:][kept[3:]].tolist() == [2.0]


def test_infobatch_is_unbiased_over_many_draws():
    x = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = x.float()
    sums = []
    for epoch in range(4_000):
        kept, weights = infobatch(scores, r=0.6, epoch=epoch)
        sums.append(float((x * weights)[kept].sum()))
    sums = torch.tensor(sums)
    error = float(sums.std()) / len(sums) ** 0.5
    assert abs(float(sums.mean()) - float(x.sum())) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize(("num_low", "r"), [(1, 0.5), (2, 0.75), (3, 0.9)])
def test_infobatch_is_unbiased_where_less_than_one_low_sample_is_to_stay(num_low, r):
    scores, num_seeds = torch.tensor([0.0] * num_low + [9.0]), 4_000
    times = torch.zeros(num_low)
    for seed in range(num_seeds):
        kept, weights = infobatch_selection(scores, r, torch.arange(num_low + 1), seed, 1)
        assert kept[-1]
        times += kept[:-1]
        if kept[:-1].any():
            assert weights[kept].tolist() == pytest.approx([1 / (1 - r), 1.0])
        else:
            assert weights is None
    margin = 4 * (num_seeds * r * (1 - r)) ** 0.5
    assert float((times - num_seeds * (1 - r)).abs().max()) < margin


def test_infobatch_keeps_undefined_scores_with_weight_one():
    kept, weights = infobatch([NAN, 0.0, 0.1, 5.0, NAN])
    assert kept[[0, 3, 4]].all()
    assert weights[[0, 3, 4]].tolist() == [1.0] * 3


@pytest.mark.parametrize("scores", [[NAN, NAN], [1.0], [2.0, 2.0, 2.0]])
def test_infobatch_with_nothing_below_the_mean(scores):
    kept, weights = infobatch(scores)
    assert kept.all()
    assert weights is None


def test_infobatch_ends_of_the_probability():
    scores = torch.arange(10.0)
    assert infobatch(scores, r=0.0).kept.all()
    kept, weights = infobatch(scores, r=1.0)
    assert kept.tolist() == [False] * 5 + [True] * 5
    assert weights is None


def test_no_rescale_no_weights():
    assert infobatch([0.0, 0.0, 0.0, 9.0], rescale="none").weights is None


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.5, NAN]), min_size=3, max_size=40),
    st.integers(0, 9),
    st.sampled_from([0.5, 0.9]),
)
@settings(max_examples=60)
def test_infobatch_of_shares_is_that_of_the_whole(scores, epoch, r):
    scores, indices = torch.tensor(scores), torch.arange(len(scores))
    whole = infobatch_selection(scores, r, indices, 0, epoch)
    kept = in_two_shards(
        lambda part, reduce: (
            infobatch_selection(scores[part], r, indices[part], 0, epoch, all_reduce=reduce).kept
        ),
        len(scores),
    )
    assert torch.equal(kept, whole.kept)


@given(
    st.lists(st.sampled_from([-1e30, -2.5, -0.0, 0.0, 1.0, 7.0, NAN]), min_size=3, max_size=30),
    st.integers(0, 31),
)
@settings(max_examples=80)
def test_draw_largest(values, count):
    values, indices = torch.tensor(values), torch.arange(len(values))
    taken = draw_largest(values, count, indices, 0, 0)
    defined = values[~values.isnan()]
    assert int(taken.sum()) == min(count, len(defined))
    expected = defined.sort(descending=True).values[:count]
    assert (values[taken].sort(descending=True).values == expected).all()
    shares = in_two_shards(
        lambda part, reduce: draw_largest(
            values[part], count, indices[part], 0, 0, all_reduce=reduce
        ),
        len(values),
    )
    assert torch.equal(shares, taken)


def test_draw_largest_draws_among_equals():
    taken = [draw_largest(torch.ones(20), 5, torch.arange(20), 0, e) for e in range(400)]
    assert torch.stack(taken).float().mean(0).tolist() == pytest.approx([0.25] * 20, abs=0.1)


def test_draw_largest_with_infinite_values():
    values = torch.tensor([torch.inf, 1.0, -torch.inf, 2.0])
    taken = [draw_largest(values, n, torch.arange(4), 0, 0).tolist() for n in (1, 3)]
    assert taken == [[True, False, False, False], [True, True, False, True]]


def test_shares_draw_together():
    indices = torch.arange(31)
    candidates = indices % 2 == 0
    whole = draw_fixed_count(candidates, 6, indices, 3, 4)
    shares = in_two_shards(
        lambda part, reduce: draw_fixed_count(
            candidates[part], 6, indices[part], 3, 4, all_reduce=reduce
        ),
        31,
    )
    assert torch.equal(shares, whole)


def test_full_selection():
    selection = full_selection(3)
    assert selection.kept.all()
    assert selection.weights is None
