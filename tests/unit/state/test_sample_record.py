import torch

from lightning_alignprune.state.sample_record import MAX_EPOCHS, SampleRecord
from tests.banks import reloaded


def notes(given, suggested, support, losses=None):
    losses = losses or [1.0] * len(given)
    rows = [losses, given, suggested, support, losses]
    return torch.tensor(rows, dtype=torch.float32)


def recorded(votes):
    """One sample given as class 0; each vote: suggested class and support."""
    record = SampleRecord(1)
    for epoch, (suggested, support) in enumerate(votes):
        record.note(torch.tensor([0]), notes([0], [suggested], [support]))
        record.close_epoch(epoch)
    return record


def test_the_class_with_most_of_the_weight_is_suggested():
    assert recorded([(1, 0.9), (2, 0.2), (2, 0.3)]).suggested.tolist() == [1]
    assert recorded([(1, 0.2), (2, 0.9), (2, 0.1)]).suggested.tolist() == [2]


def test_what_was_not_seen_stays_as_it_was():
    record = SampleRecord(3)
    record.note(torch.tensor([2]), notes([4], [1], [0.5]))
    record.close_epoch(0)
    record.note(torch.tensor([0]), notes([3], [2], [0.5]))
    record.close_epoch(1)
    assert record.given.tolist() == [3, -1, 4]
    assert record.suggested.tolist() == [2, -1, 1]
    assert [row.isnan().tolist() for row in record.losses] == [
        [True, True, False],
        [False, True, True],
    ]


def test_losses_of_few_epochs_stay_from_the_first_to_the_newest():
    record = recorded([(1, 0.5)] * 200)
    assert len(record.epochs) == len(record.losses) == MAX_EPOCHS
    assert (record.epochs[0], record.epochs[-1]) == (0, 199)
    ratios = [(b + 1) / (a + 1) for a, b in zip(record.epochs, record.epochs[1:], strict=False)]
    assert max(ratios[:-1]) < 6, "evenly spread over orders of magnitude"


def test_a_loss_too_large_for_its_storage_is_no_bad_one():
    record = SampleRecord(1)
    record.note(torch.tensor([0]), notes([0], [1], [0.5], losses=[1e6]))
    record.close_epoch(0)
    assert record.losses[0].isfinite().all()


def test_a_sample_is_cut_since_the_first_epoch_of_those_that_it_is_out():
    record = SampleRecord(3)
    for epoch, kept in enumerate([[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]], 2):
        record.follow(epoch, torch.tensor(kept, dtype=torch.bool))
    assert record.cut_since.tolist() == [-1, 3, 5]
    record.follow(6, None)
    assert record.cut_since.tolist() == [-1, -1, -1]


def test_a_resume_in_mid_epoch_goes_on_exactly():
    record = recorded([(1, 0.5), (2, 0.9)])
    record.note(torch.tensor([0]), notes([0], [2], [0.1]))
    other = SampleRecord(1)
    other.load_state_dict(reloaded(record.state_dict()))
    for each in (record, other):
        each.close_epoch(2)
    saved, loaded = record.state_dict(), other.state_dict()
    assert saved["epochs"] == loaded["epochs"]
    for name in ("given", "suggested", "support", "cut_since"):
        assert torch.equal(saved[name], loaded[name])
