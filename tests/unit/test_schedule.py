import pytest

from lightning_alignprune import PruningSchedule
from lightning_alignprune.schedule import progress_after_epoch


def pruned_epochs(max_epochs, **kwargs):
    schedule = PruningSchedule(**kwargs)
    return [
        e
        for e in range(max_epochs)
        if schedule.should_prune(e, progress_after_epoch(e, max_epochs))
    ]


@pytest.mark.parametrize(("max_epochs", "num_calls"), [(200, 175), (100, 87), (10, 8), (140, 122)])
def test_number_of_prune_calls_of_the_public_counter(max_epochs, num_calls):
    # The public sampler calls prune in epoch 0 too, where it removes nothing.
    assert pruned_epochs(max_epochs) == list(range(1, num_calls))


def test_eight_epochs_leave_the_last_one_full():
    assert pruned_epochs(8) == [1, 2, 3, 4, 5, 6]
    assert pruned_epochs(10) == [1, 2, 3, 4, 5, 6, 7]


def test_start_epoch_and_no_finish():
    assert pruned_epochs(6, start_epoch=3, stop_fraction=1.0) == [3, 4, 5]


def test_steps_are_the_clock_where_they_end_the_run():
    progress = progress_after_epoch(5, 100, global_step=80, steps_per_full_epoch=10, max_steps=100)
    assert progress == pytest.approx(0.9)
    assert progress_after_epoch(5, -1, 80, 10, -1) == 0.0
    assert progress_after_epoch(99, 50) == 1.0
