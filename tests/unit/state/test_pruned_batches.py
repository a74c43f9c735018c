import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler

from lightning_alignprune.state.pruned_batches import PrunedBatches, joined_sizes


def kept_mask(num_samples, kept):
    mask = torch.zeros(num_samples, dtype=torch.bool)
    mask[list(kept)] = True
    return mask


def pruned(batches, num_samples, kept, **kwargs):
    sampler = PrunedBatches(num_samples, batches, **kwargs)
    sampler.arm()
    sampler.select(None if kept is None else kept_mask(num_samples, kept))
    sampler.set_epoch(1)
    return sampler


@given(st.lists(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))))
def test_joined_batches_hold_what_is_kept_and_are_no_larger_than_their_sources(pairs):
    sizes, kept = [n for n, _ in pairs], [k for _, k in pairs]
    joined = joined_sizes(sizes, kept)
    assert sum(joined) == sum(kept)
    source = [size for size, num in pairs for _ in range(num)]
    for size in joined:
        assert 0 < size <= min(source[:size])
        source = source[size:]


@given(st.lists(st.integers(1, 9)))
def test_batches_of_which_nothing_is_pruned_stay(sizes):
    assert joined_sizes(sizes, sizes) == sizes


@given(st.integers(1, 6), st.lists(st.integers(0, 6)))
def test_equal_batches_become_full_ones(size, kept):
    kept = [min(size, k) for k in kept]
    joined = joined_sizes([size] * len(kept), kept)
    assert all(new == size for new in joined[:-1])


BATCHES = [[3, 0, 4], [1, 5, 2], [6]]


def test_what_is_pruned_is_left_out_in_the_users_order():
    sampler = pruned(BATCHES, 7, [0, 4, 5, 2, 1])
    assert list(sampler.batches) == [[0, 4, 1], [5, 2]]
    assert len(sampler.batches) == 2
    assert sampler.order.tolist() == [0, 4, 1, 5, 2]
    assert sampler.batch_indices(1).tolist() == [5, 2]
    assert sampler.batch_indices(2).tolist() == []


def test_all_of_the_users_batches_where_nothing_is_pruned():
    assert list(pruned(BATCHES, 7, None).batches) == BATCHES


def test_no_pruned_epoch_ends_in_a_single_sample_unless_it_is_alone():
    assert list(pruned(BATCHES, 7, [3, 0, 4, 6]).batches) == [[3, 0, 4]]
    assert list(pruned(BATCHES, 7, [6]).batches) == [[6]]


def test_an_epoch_of_nothing_falls_back_to_all():
    sampler = pruned([[0, 1], [2]], 4, [3])
    with pytest.warns(UserWarning, match="nothing kept would be drawn"):
        assert list(sampler.batches) == [[0, 1], [2]]
    assert sampler.has_fallen_back


def test_a_resumed_epoch_begins_after_the_batches_behind_it():
    sampler = pruned(BATCHES, 7, range(6))
    sampler.skip(1)
    assert list(sampler.batches) == [[1, 5, 2]]
    assert len(sampler.batches) == 2
    assert sampler.batch_indices(0).tolist() == [3, 0, 4]


def test_ranks_draw_equally_many_batches():
    sampler = pruned(BATCHES, 7, range(6), fewest_of_ranks=lambda count: count - 1)
    assert list(sampler.batches) == [[3, 0, 4]]
    assert sampler.order.tolist() == [3, 0, 4]


def test_random_batches_are_others_in_each_epoch_and_the_same_in_each_run():
    def epochs():
        sampler = PrunedBatches(20, BatchSampler(RandomSampler(range(20)), 4, False), seed=3)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            yield list(sampler.batches)

    first = list(epochs())
    assert first == list(epochs())
    assert len({str(batches) for batches in first}) == 3


def test_set_epoch_reaches_the_batch_sampler_and_the_sampler_in_it():
    class Counting(RandomSampler):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    class Batches(BatchSampler):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    epochs = []
    sampler = PrunedBatches(8, Batches(Counting(range(8)), 4, False))
    sampler.set_epoch(2)
    assert len(sampler.batches) == 2
    assert epochs == [2, 2]
