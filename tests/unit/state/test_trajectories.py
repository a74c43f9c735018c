import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_alignprune import LossTrajectories
from tests.banks import bank_of, reloaded, same

NAN = float("nan")


def test_record_writes_by_index_and_the_last_write_wins():
    bank = LossTrajectories(4)
    bank.record(torch.tensor([2, 0]), torch.tensor([1.0, 2.0]))
    bank.record(torch.tensor([2]), torch.tensor([3.0]))
    bank.close_epoch(0, torch.tensor(0.5))
    assert same(bank.rows[0], [2.0, NAN, 3.0, NAN])
    assert bank.reference.tolist() == [0.5]
    assert bank.running.isnan().all()


def test_an_epoch_is_closed_once():
    bank = bank_of([[1.0]])
    with pytest.raises(ValueError, match="expected an epoch after 0, got 0"):
        bank.close_epoch(0)


def test_last_and_before_outlive_dropped_rows():
    bank = bank_of([[1.0, 5.0, NAN], [2.0, NAN, NAN], [NAN, NAN, NAN], [3.0, NAN, NAN]], window=2)
    assert bank.epochs == [2, 3]
    assert same(bank.view().before, [2.0, 5.0, NAN])
    assert same(bank.last, [3.0, 5.0, NAN])


def test_transform_makes_the_row_from_the_running_row_and_the_last():
    bank = bank_of([[1.0, NAN]])
    bank.record(torch.tensor([0]), torch.tensor([4.0]))
    bank.close_epoch(1, transform=lambda row, last: row + last)
    assert same(bank.rows[1], [5.0, NAN])


def test_last_is_never_a_row_of_the_bank():
    bank = bank_of([[1.0, 2.0]])
    bank.last.zero_()
    assert same(bank.rows[0], [1.0, 2.0])


def test_best_epoch_is_the_first_of_the_lowest():
    rows = [[1.0]] * 5
    assert bank_of(rows, [3.0, NAN, 2.0, 2.0, 4.0]).best_epoch == 2
    assert bank_of(rows, [NAN] * 5).best_epoch is None
    assert bank_of(rows).best_epoch is None


def test_keep_best_keeps_the_window_of_the_best_epoch():
    reference = [5.0, 4.0, 3.0, 6.0, 7.0, 8.0, 9.0]
    bank = bank_of([[float(e)] for e in range(7)], reference, window=2, keep_best=True)
    assert bank.epochs == [1, 2, 5, 6]
    assert bank.view(2, until=2).epochs == [1, 2]
    assert bank.view(2).epochs == [5, 6]
    bank.record(torch.tensor([0]), torch.tensor([7.0]))
    bank.close_epoch(7, torch.tensor(1.0))  # the reference improves again: the old best goes
    assert bank.epochs == [6, 7]


def test_view_knows_the_last_losses_before_it_across_dropped_rows():
    rows = [[1.0, 1.0, 1.0], [2.0, NAN, NAN], [NAN, 3.0, NAN], [NAN, NAN, NAN], [5.0, NAN, NAN]]
    bank = bank_of(rows, [2.0, 1.0, 3.0, 4.0, 5.0], window=1, keep_best=True)
    assert bank.epochs == [1, 4]
    assert same(bank.view(1, until=1).before, [1.0, 1.0, 1.0])
    assert same(bank.view(1).before, [2.0, 3.0, 1.0])
    assert same(bank.last, [5.0, 3.0, 1.0])


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([NAN, 1.0, 2.0, 3.0]), min_size=3, max_size=3),
            st.sampled_from([NAN, 1.0, 2.0, 3.0]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 3),
)
@settings(max_examples=80)
def test_a_small_bank_answers_like_one_that_keeps_everything(epochs, window):
    rows, reference = [row for row, _ in epochs], [u for _, u in epochs]
    small = bank_of(rows, reference, window=window, keep_best=True)
    whole = bank_of(rows, reference, window=None)
    assert small.best_epoch == whole.best_epoch
    assert same(small.last, whole.last)
    for until in (None, whole.best_epoch):
        ours, theirs = small.view(window, until), whole.view(window, until)
        assert ours.epochs == theirs.epochs
        assert same(ours.before, theirs.before)
        assert same(ours.reference, theirs.reference)
        assert all(same(a, b) for a, b in zip(ours.rows, theirs.rows, strict=True))


def test_state_round_trip_goes_on_alike():
    reference = [3.0, 1.0, 2.0, 4.0, 5.0]
    rows = [[float(e), NAN if e % 2 else 1.0] for e in range(5)]
    bank = bank_of(rows, reference, window=2, keep_best=True)
    bank.record(torch.tensor([1]), torch.tensor([7.0]))
    copy = LossTrajectories(2, window=2, keep_best=True)
    copy.load_state_dict(reloaded(bank.state_dict()))
    for each in (bank, copy):
        each.record(torch.tensor([0]), torch.tensor([8.0]))
        each.close_epoch(5, torch.tensor(6.0))
    assert copy.epochs == bank.epochs == [0, 1, 4, 5]
    assert same(copy.last, bank.last)
    assert copy.best_epoch == 1
    assert all(same(a, b) for a, b in zip(copy.rows, bank.rows, strict=True))
    assert same(copy.view(2).before, bank.view(2).before)


def test_state_is_not_changed_by_later_batches():
    bank = LossTrajectories(2)
    state = bank.state_dict()
    bank.record(torch.tensor([0]), torch.tensor([1.0]))
    assert state["running"].isnan().all()


def test_smaller_window_and_dtype_are_applied_to_a_loaded_state():
    copy = LossTrajectories(1, window=2, dtype="float16")
    copy.load_state_dict(bank_of([[float(e)] for e in range(4)], window=4).state_dict())
    assert copy.epochs == [2, 3]
    assert copy.rows[0].dtype == torch.float16


def test_half_precision_rows_and_float32_answers():
    bank = bank_of([[1.0, 2.5]], dtype="bfloat16")
    assert bank.rows[0].dtype == torch.bfloat16
    assert bank.last.dtype == torch.float32


def test_refusals():
    with pytest.raises(ValueError, match=r"num_samples in \[1, inf\), got 0"):
        LossTrajectories(0)
    with pytest.raises(ValueError, match=r"window in \[1, inf\), got 0"):
        LossTrajectories(1, window=0)
    with pytest.raises(ValueError, match="dtype to be one of"):
        LossTrajectories(1, dtype="int8")
    with pytest.raises(ValueError, match="expected a state of 2 samples, got 1"):
        LossTrajectories(2).load_state_dict(LossTrajectories(1).state_dict())
    state = LossTrajectories(1).state_dict()
    del state["rows"]
    with pytest.raises(KeyError, match="rows"):
        LossTrajectories(1).load_state_dict(state)


def test_reference_losses_since_the_lowest_are_counted_where_there_was_one():
    bank = LossTrajectories(2, window=2)
    counts = []
    for epoch, reference in enumerate([None, 3.0, 2.0, None, 2.5, 2.0, None, None, 1.0]):
        bank.close_epoch(epoch, reference)
        counts.append(bank.epochs_since_best)
        bank = reloaded_bank(bank)
    assert counts == [None, 0, 0, 0, 1, 2, 2, 2, 0]
    bank.replace_reference(torch.tensor([1.0, 4.0]))
    assert bank.epochs_since_best == 1


def test_reference_rows_are_in_mid_epoch_and_outlive_a_reload():
    bank = LossTrajectories(2, window=2)
    for epoch, row in enumerate(([1.0, 3.0], [3.0, 1.0], None, [5.0, 5.0], [1.0, 1.0])):
        losses = None if row is None else torch.tensor(row, dtype=torch.float64)
        bank.close_epoch(epoch, 1.0, reference_samples=losses)
        bank = reloaded_bank(bank)
    rows = bank.view().reference_rows
    assert [None if row is None else row.tolist() for row in rows] == [[5.0, 5.0], [3.0, 3.0]]


def reloaded_bank(bank):
    other = LossTrajectories(bank.num_samples, bank.window)
    other.load_state_dict(reloaded(bank.state_dict()))
    return other


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_finite_loss_stays_finite_in_any_storage_type(dtype):
    bank = LossTrajectories(5, dtype=dtype)
    losses = torch.tensor([1e6, -1e6, torch.inf, 2.0, torch.finfo(torch.float32).max])
    bank.record(torch.arange(5), losses)
    bank.close_epoch(0)
    assert bank.rows[0].isfinite().tolist() == [True, True, False, True, True]
    if dtype == "float16":
        assert bank.rows[0].tolist() == [65504.0, -65504.0, torch.inf, 2.0, 65504.0]
    wide = LossTrajectories(5)
    wide.record(torch.arange(5), losses)
    wide.close_epoch(0)
    narrow = LossTrajectories(5, dtype=dtype)
    narrow.load_state_dict(wide.state_dict())
    assert torch.equal(narrow.rows[0], bank.rows[0])
