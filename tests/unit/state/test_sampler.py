"""Properties of the order: coverage, equal shards, no repeats, seeds, round trips."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SubsetRandomSampler, WeightedRandomSampler

from lightning_alignprune import PrunedSampler
from lightning_alignprune.state.shard import Shard


def make(num_samples=40, kept=None, epoch=3, **kwargs):
    sampler = PrunedSampler(num_samples, **kwargs)
    sampler.arm()
    sampler.select(kept)
    sampler.set_epoch(epoch)
    return sampler


@given(
    num_samples=st.integers(1, 60),
    ranks=st.integers(1, 5),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, 9),
    data=st.data(),
)
def test_shards_are_equal_disjoint_and_cover_the_selection(
    num_samples, ranks, batch_size, shuffle, drop_last, epoch, data
):
    kept = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=num_samples, max_size=num_samples))
    )
    assume(int(kept.sum()) // ranks >= (batch_size if drop_last else 1))  # else all are drawn
    shards = [
        make(
            num_samples,
            kept,
            epoch,
            shuffle=shuffle,
            batch_size=batch_size,
            drop_last=drop_last,
            num_replicas=ranks,
            rank=rank,
        ).order
        for rank in range(ranks)
    ]
    assert len({len(shard) for shard in shards}) == 1
    union = torch.cat(shards)
    assert len(union.unique()) == len(union)
    assert kept[union].all()
    lone = not drop_last and batch_size > 1 and (int(kept.sum()) // ranks) % batch_size == 1
    allowed = ranks - 1 + (ranks if lone and int(kept.sum()) // ranks > 1 else 0)
    assert int(kept.sum()) - len(union) <= allowed
    if not drop_last and batch_size > 1 and len(shards[0]) > 1:
        assert len(shards[0]) % batch_size != 1


def test_samples_left_out_rotate_over_the_epochs():
    left_out = set()
    for epoch in range(10):
        shards = [
            make(10, None, epoch, shuffle=False, num_replicas=4, rank=r).order for r in range(4)
        ]
        left_out |= set(range(10)) - set(torch.cat(shards).tolist())
    assert left_out == set(range(10))


def test_same_seed_and_epoch_same_order_others_differ():
    def order(seed, epoch):
        return make(epoch=epoch, seed=seed, shuffle=True).order.tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


@pytest.mark.parametrize("drop_last", [False, True])
def test_torchs_batch_sampler_visits_each_index_once(drop_last):
    """Newer BatchSampler slices the iterator: an __iter__ that draws anew would never end."""
    sampler = make(kept=torch.arange(40) % 3 > 0, batch_size=4, drop_last=drop_last, shuffle=True)
    batches = list(BatchSampler(sampler, 4, drop_last))
    assert sorted(index for batch in batches for index in batch) == sorted(
        sampler.order.tolist()[: len(batches) * 4]
    )
    for i, batch in enumerate(batches):
        assert sampler.batch_indices(i).tolist() == batch


def test_a_selection_waits_for_the_next_epoch_and_for_arming():
    sampler = PrunedSampler(8, shuffle=False)
    sampler.select(torch.arange(8) < 2)
    sampler.set_epoch(1)
    assert len(sampler) == 8, "not armed"
    sampler.arm()
    assert len(sampler) == 2
    sampler.select(None)
    assert len(sampler) == 2, "the running epoch keeps its order"
    sampler.set_epoch(2)
    assert len(sampler) == 8


def test_skip_begins_later_and_ends_with_the_epoch():
    sampler = make(batch_size=4, shuffle=True)
    sampler.skip(3)
    assert list(sampler) == sampler.order.tolist()[12:]
    assert len(sampler) == 40
    sampler.set_epoch(3)
    assert len(list(sampler)) == 28, "Lightning sets the running epoch again before it iterates"
    sampler.set_epoch(4)
    assert len(list(sampler)) == 40


@pytest.mark.parametrize(
    "base",
    [
        lambda: WeightedRandomSampler(torch.arange(1.0, 41.0), 60),
        lambda: SubsetRandomSampler(range(10, 30)),
        lambda: SubsetRandomSampler(range(30), generator=torch.Generator().manual_seed(5)),
    ],
)
def test_a_users_sampler_keeps_its_order_without_the_pruned(base):
    kept = torch.arange(40) % 2 == 0
    before = torch.get_rng_state()
    full = make(base=base(), batch_size=4).order
    pruned = make(kept=kept, base=base(), batch_size=4, drop_last=True).order
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(pruned, full[kept[full]])
    assert not torch.equal(make(base=base(), epoch=4).order, full)
    shards = [
        make(kept=kept, base=base(), num_replicas=2, rank=r, drop_last=True).order for r in (0, 1)
    ]
    dealt = torch.stack(shards, 1).flatten().tolist()
    order = iter(pruned.tolist())
    assert all(index in order for index in dealt), "not in the order of the draw"
    assert len(pruned) - len(dealt) <= 1


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"num_samples": 0}, r"num_samples in \[1, inf\), got 0"),
        ({"num_samples": 4, "batch_size": 0}, "batch_size in"),
        ({"num_samples": 4, "rank": 2, "num_replicas": 2}, r"rank in \[0, 2\), got 2"),
    ],
)
def test_errors(kwargs, match):
    with pytest.raises(ValueError, match=match):
        PrunedSampler(**kwargs)
    with pytest.raises(ValueError, match=r"shape \(4,\) and dtype bool, got \(3,\)"):
        PrunedSampler(4).select(torch.ones(3, dtype=torch.bool))


def test_an_epoch_that_would_be_empty_draws_everything():
    with_base = make(kept=torch.arange(40) > 10, base=SubsetRandomSampler(range(5)))
    with pytest.warns(UserWarning, match="nothing kept would be drawn"):
        assert len(with_base) == 5
    on_two_ranks = make(kept=torch.arange(40) == 3, num_replicas=2)
    with pytest.warns(UserWarning, match="nothing kept would be drawn"):
        assert len(on_two_ranks) == 20


def shards_of(num_samples, ranks, **kwargs):
    shards = [Shard(num_samples, ranks, rank, lambda value: value) for rank in range(ranks)]
    return [PrunedSampler(num_samples, batch_size=4, shard=shard, **kwargs) for shard in shards]


@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_are_drawn_evenly_and_what_is_left_out_changes(shuffle):
    kept = torch.rand(101, generator=torch.Generator().manual_seed(0)) < 0.7
    samplers = shards_of(101, 3, shuffle=shuffle)
    fewest = min(int(kept[rank::3].sum()) for rank in range(3))
    left_out = []
    for epoch in range(1, 40):
        drawn = []
        for rank, sampler in enumerate(samplers):
            sampler.arm()
            sampler.select(kept[rank::3], fewest)
            sampler.set_epoch(epoch)
            assert torch.equal(sampler.positions, sampler.order // 3)
            assert (sampler.order % 3 == rank).all()
            drawn.append(sampler.order)
        assert {len(order) for order in drawn} == {fewest - (fewest % 4 == 1)}
        union = torch.cat(drawn)
        assert kept[union].all()
        assert len(union.unique()) == len(union)
        left_out.append(kept.clone().index_fill_(0, union, False))
    missed = torch.stack(left_out).sum(0)
    assert (missed[~kept] == 0).all()
    assert int(missed.max()) < 39, "a sample was never drawn"
    assert not torch.equal(left_out[0], left_out[1])


def test_ranks_permute_their_shares_differently():
    # With one permutation for all, neighbours in the data set would train in the same step.
    first, second = (sampler.order for sampler in shards_of(400, 2))
    assert int((first + 1 == second).sum()) < 20
    assert len(first) == len(second) == 200
