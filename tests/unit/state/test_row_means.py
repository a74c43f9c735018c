import pytest
import torch

from lightning_alignprune.state import LossTrajectories, Shard
from lightning_alignprune.state.row_means import RowMeans

NAN, INF = float("nan"), float("inf")


def bank_of(num_samples=4):
    bank = LossTrajectories(num_samples, window=None)
    bank.average_rows()
    return bank


def assert_row(row, expected):
    torch.testing.assert_close(row, torch.tensor(expected), equal_nan=True)


def test_rows_of_one_sample_are_averaged_within_a_batch_and_over_batches():
    bank = bank_of()
    bank.record(torch.tensor([2, 0, 2]), torch.tensor([1.0, 5.0, 3.0]))
    assert_row(bank.running, [5.0, NAN, 2.0, NAN])
    bank.record(torch.tensor([2, 3]), torch.tensor([8.0, 7.0]))
    assert_row(bank.running, [5.0, NAN, 4.0, 7.0])


def test_what_is_not_observed_does_not_count_and_what_is_bad_stays_bad():
    bank = bank_of()
    bank.record(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([NAN, 3.0, NAN, INF, -INF]))
    assert_row(bank.running, [3.0, NAN, INF, NAN])
    bank.record(torch.tensor([1, 2]), torch.tensor([2.0, 1.0]))
    assert_row(bank.running, [3.0, 2.0, INF, NAN])


def test_an_epoch_begins_with_no_rows():
    bank = bank_of(2)
    bank.record(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    bank.close_epoch(0)
    bank.record(torch.tensor([0]), torch.tensor([9.0]))
    assert_row(bank.running, [9.0, NAN])
    bank.clear_running()
    bank.record(torch.tensor([0]), torch.tensor([4.0]))
    assert_row(bank.running, [4.0, NAN])


def test_the_order_of_the_rows_does_not_show():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(999, generator=generator) * 10
    indices = torch.zeros(999, dtype=torch.int64)
    means = [RowMeans(1), RowMeans(1)]
    means[0].add(indices, losses)
    means[1].add(indices, losses[torch.randperm(999, generator=generator)])
    assert torch.equal(means[0].values(), means[1].values())


@pytest.mark.parametrize("has_rows", [True, False])
def test_a_state_goes_on_in_mid_epoch(has_rows):
    bank, after = bank_of(3), bank_of(3)
    bank.record(torch.tensor([0, 0, 1]), torch.tensor([0.1, 0.2, 5.0]))
    state = bank.state_dict()
    if not has_rows:  # of a run without sample_index: a loss is one row
        del state["row_means"]
    after.load_state_dict(state)
    for each in (bank, after):
        each.record(torch.tensor([0]), torch.tensor([0.9]))
    assert_row(after.running, [0.4 if has_rows else (0.15 + 0.9) / 2, 5.0, NAN])
    assert not has_rows or torch.equal(bank.running[:2], after.running[:2])


def test_a_run_that_averages_nothing_takes_the_state_of_one_that_does():
    bank, after = bank_of(2), LossTrajectories(2)
    bank.record(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    after.load_state_dict(bank.state_dict())
    after.record(torch.tensor([1]), torch.tensor([3.0]))
    assert_row(after.running, [1.5, 3.0])


def test_shares_of_ranks_add_up():
    ranks = [RowMeans(3), RowMeans(3)]
    ranks[0].add(torch.tensor([0, 1]), torch.tensor([1.0, 4.0]))
    ranks[1].add(torch.tensor([0, 0]), torch.tensor([2.0, 6.0]))
    totals = iter([ranks[0].sums + ranks[1].sums, ranks[0].counts + ranks[1].counts])
    merged = ranks[0].merged(lambda own: next(totals))
    assert_row(merged.values(), [3.0, 4.0, NAN])
    assert_row(ranks[0].values(), [1.0, 4.0, NAN])


def test_a_shard_of_a_state_has_its_own_rows():
    bank = bank_of(4)
    bank.record(torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 4.0]))
    own = Shard(4, 2, 1, lambda x: x).own_trajectories(bank.state_dict())
    assert own["row_means"]["sums"].tolist() == [6.0, 0.0]
    assert own["row_means"]["counts"].tolist() == [2, 0]
