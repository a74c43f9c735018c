"""The recorded losses belong to the samples they are stored under."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_alignprune import DynamicPruningCallback, InfoBatch, PruningSchedule
from tests.conftest import TinyModule, make_trainer


class Indexed(Dataset):
    """Sample i is the number i, and so is its loss."""

    def __len__(self):
        return 53

    def __getitem__(self, index):
        return torch.randn(6), index


class IndexAsLoss(TinyModule):
    def training_step(self, batch, batch_idx):
        x, index = batch
        losses = self(x).sum(1) * 0 + index
        return {"loss": losses.mean(), "sample_loss": losses}


class NoneForSome:
    """A collate function that drops whole batches."""

    def __call__(self, samples):
        if any(index == 20 for _, index in samples):
            return None
        return torch.utils.data.default_collate(samples)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    "trainer_kwargs",
    [
        {},
        {"limit_train_batches": 4},
        {"limit_train_batches": 0.5},
        {"accumulate_grad_batches": 3},
        {"overfit_batches": 3},
    ],
)
@pytest.mark.filterwarnings(
    "ignore:You requested to overfit but enabled train dataloader shuffling"
)
def test_recorded_value_is_the_samples_own(num_workers, drop_last, trainer_kwargs):
    loader = DataLoader(Indexed(), 8, shuffle=True, drop_last=drop_last, num_workers=num_workers)
    check_recorded(loader, trainer_kwargs)


@pytest.mark.parametrize("overfit_batches", [3, 0.5])
def test_the_batches_that_are_overfitted_stay_the_same(overfit_batches):
    callback = check_recorded(DataLoader(Indexed(), 8), {"overfit_batches": overfit_batches})
    num_pruned = callback.trajectories.rows[2][:24].isnan().sum()
    assert num_pruned > 0
    for row in callback.trajectories.rows:
        assert row[24:].isnan().all()


@pytest.mark.parametrize("kept", [{}, {"persistent_workers": True, "prefetch_factor": 4}])
def test_of_two_workers(kept):
    check_recorded(DataLoader(Indexed(), 8, shuffle=True, num_workers=2, **kept), {})


def test_out_of_order_loader_is_put_in_order():
    loader = DataLoader(Indexed(), 8, shuffle=True, num_workers=2, in_order=False)
    with pytest.warns(UserWarning, match="in_order=False"):
        check_recorded(loader, {})


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_none_batches_do_not_shift_the_indices():
    callback = check_recorded(DataLoader(Indexed(), 8, collate_fn=NoneForSome()), {})
    assert callback.trajectories.rows[0][16:24].isnan().all()


def check_recorded(loader, trainer_kwargs):
    callback = DynamicPruningCallback(
        score="loss",
        policy=InfoBatch(0.5),
        schedule=PruningSchedule(stop_fraction=0.7),
        keep_history=True,
    )
    trainer = make_trainer(callback, max_epochs=5, **trainer_kwargs)
    trainer.fit(IndexAsLoss(), loader)
    rows = callback.trajectories.rows
    assert len(rows) == 5
    assert 0 < (~rows[2].isnan()).sum() <= (~rows[0].isnan()).sum()
    for row in rows:
        seen = ~row.isnan()
        assert torch.equal(row[seen], torch.arange(53.0)[seen])
    return callback


def test_iterating_the_loader_mid_epoch_is_harmless():
    class Peeking(IndexAsLoss):
        def on_train_batch_end(self, *args):
            next(iter(self.trainer.train_dataloader))

    callback = DynamicPruningCallback(score="loss")
    make_trainer(callback, max_epochs=2).fit(Peeking(), DataLoader(Indexed(), 8, shuffle=True))
    row = callback.trajectories.rows[-1]
    assert torch.equal(row[~row.isnan()], torch.arange(53.0)[~row.isnan()])
