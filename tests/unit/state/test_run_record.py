import pytest

from lightning_alignprune.state import RunRecord
from tests.banks import reloaded


def recorded(epochs, num_samples=100):
    """Each epoch: (passes, seconds, overhead); full where all samples are trained."""
    time = [0.0]
    record = RunRecord(num_samples, clock=lambda: time[0])
    for epoch, (passes, seconds, overhead) in enumerate(epochs):
        record.start()
        time[0] += seconds
        record.close_epoch(epoch, passes / num_samples, passes == num_samples, passes)
        record.add_overhead(overhead)
    return record


def test_seconds_saved_are_those_of_full_epochs_less_the_overhead():
    record = recorded([(100, 9.0, 0.5), (100, 5.0, 0.5), (40, 2.0, 0.5)])
    assert record.seconds_per_pass == pytest.approx(0.05), "the first epoch starts workers"
    assert record.passes_saved == 60
    assert record.seconds_saved == pytest.approx(5.0 - 2.0 - 3 * 0.5)
    assert record.seconds == pytest.approx(17.5)


def test_where_only_the_first_epoch_was_full_it_is_the_measure():
    assert recorded([(100, 10.0, 0.0), (50, 5.0, 0.0)]).seconds_saved == pytest.approx(5.0)


def test_nothing_is_said_of_seconds_before_a_full_epoch_was_measured():
    record = recorded([(50, 5.0, 0.1)])
    assert record.seconds_saved is None
    assert record.passes_saved == 50


def test_validation_is_not_counted():
    time = [0.0]
    record = RunRecord(10, clock=lambda: time[0])
    record.start()
    time[0] = 2.0
    record.pause()
    time[0] = 100.0
    record.start()
    time[0] = 101.0
    record.close_epoch(0, 1.0, True, 10)
    assert record.epochs[0].seconds == 3.0


def test_a_resume_goes_on_counting_where_it_stood():
    time = [0.0]
    record = RunRecord(10, clock=lambda: time[0])
    record.start()
    time[0] = 2.0
    other = RunRecord(10, clock=lambda: time[0])
    other.load_state_dict(reloaded(record.state_dict()))
    time[0] = 50.0
    other.start()
    time[0] = 51.0
    other.close_epoch(0, 1.0, True, 10)
    assert other.epochs[0].seconds == 3.0


def test_an_older_checkpoint_has_no_epochs():
    record = RunRecord(10)
    record.load_state_dict(None)
    assert (record.passes_saved, record.seconds_saved) == (0, None)
