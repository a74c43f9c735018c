import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_alignprune.functional import group_labels, optimal_cuts, window_selection
from tests import oracles
from tests.in_two_shards import in_two_shards

NAN, INF = float("nan"), float("inf")
ODD = [NAN, INF, -INF, 0.0, -0.0, 1.0, 1.0000001, 3e38, -3e38, 1e-44, 7.25]


def labels_over_ranks(scores, k):
    return in_two_shards(
        lambda part, reduce: group_labels(scores[part], optimal_cuts(scores[part], k, reduce)),
        len(scores),
    )


@pytest.mark.parametrize("k", [1, 2, 5, 12])
@pytest.mark.parametrize(
    "kind",
    ["normal", "long tail", "ties", "clumps", "outliers", "tiny", "close", "float64", "one value"],
)
def test_the_groups_are_those_of_one_process(kind, k):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(k))
    scores = {
        "normal": x,
        "long tail": -(8 * x).exp(),
        "ties": (2 * x).round(),
        "clumps": x * 0.01 + torch.randint(0, 6, (2000,), generator=torch.Generator()),
        "outliers": torch.cat([x, torch.tensor([1e5, -1e30, NAN, INF])]),
        "tiny": x * 1e-20,
        "close": 1 + x * 1e-6,
        "float64": 1.7 + x.double() * 1e-12,
        "one value": torch.full((50,), 2.5),
    }[kind]
    assert torch.equal(labels_over_ranks(scores, k), group_labels(scores, optimal_cuts(scores, k)))


@given(
    st.lists(st.sampled_from(ODD) | st.floats(-100, 100, width=32), min_size=3, max_size=12),
    st.integers(1, 5),
)
@settings(max_examples=100)
def test_never_worse_than_all_groupings(numbers, k):
    scores = torch.tensor(numbers)
    labels = labels_over_ranks(scores, k)
    assert torch.equal(labels < 0, ~scores.isfinite())
    scores, labels = scores[labels >= 0], labels[labels >= 0]
    if not len(scores):
        return
    spread = float(scores.double().max() - scores.double().min())
    least = oracles.least_sum_of_squares(scores, k)
    assert oracles.sum_of_squares(scores, labels) <= least + 1e-12 * spread**2


@pytest.mark.parametrize("kind", ["normal", "one value", "all but one undefined"])
@pytest.mark.parametrize("easy_end", ["low", "high"])
@pytest.mark.parametrize("keep_fraction", [1.0, 0.7])
def test_the_selection_is_that_of_one_process(kind, easy_end, keep_fraction):
    scores = torch.randn(500, generator=torch.Generator().manual_seed(1))
    if kind == "one value":
        scores = torch.ones(500)
    elif kind != "normal":
        scores[1:] = NAN
    scores[7] = NAN
    indices, window = torch.arange(500), range(1, 3)
    whole = window_selection(
        scores, 4, window, keep_fraction, indices, seed=3, epoch=2, easy_end=easy_end
    )

    def select(part, reduce):
        return window_selection(
            scores[part], 4, window, keep_fraction, indices[part], 3, 2, easy_end, reduce
        ).kept

    assert torch.equal(in_two_shards(select, 500), whole.kept)


def test_what_travels_does_not_grow_with_the_scores():
    sizes = []
    for num_samples in (1_000, 100_000):
        sent = []

        def all_reduce(value, sent=sent):
            sent.append(value.numel() * value.element_size())
            return value

        scores = torch.randn(num_samples, generator=torch.Generator().manual_seed(0)).exp()
        optimal_cuts(scores, 5, all_reduce)
        sizes.append(sum(sent))
        assert len(sent) < 20
    assert max(sizes) < 800_000
    assert sizes[1] < 1.2 * sizes[0]
