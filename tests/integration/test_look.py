"""Samples that were left out are looked at again: what is seen, what it costs, what it leaves."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback, Policy, PruningSchedule, Selection
from lightning_alignprune.signals import AveragedSignal, LabelOdds, SampleLoss
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import fit, same
from tests.integration.test_fixed_partition import Unmoved, whole

N = 60


class EveryThird(Policy):
    """Keep a third of the samples, whatever their scores; look at the others."""

    works_on_shares = True

    def __init__(self, look_every=1):
        self.look_every = look_every

    def select(self, scores, context):
        return Selection(context.indices % 3 == 0)


class LossAverage(AveragedSignal):
    """The plain loss, and a count of what was trained as a sum over an epoch."""

    def __init__(self):
        super().__init__()
        self.count = torch.zeros(1, dtype=torch.int64)
        self.counts = []

    def values(self, step):
        self.count += step.num_samples
        return step.sample_losses()

    def sums(self):
        return {"count": self.count}

    def load_sums(self, sums):
        self.count = sums["count"].clone()

    def close_epoch(self, row, last):
        self.counts.append(int(self.count))
        self.count = torch.zeros(1, dtype=torch.int64)
        return row


def make(look_every=1, signal=SampleLoss, **kwargs):
    return DynamicPruningCallback(
        "loss",
        EveryThird(look_every),
        signal(),
        PruningSchedule(2, finish="selected"),
        keep_history=True,
        **kwargs,
    )


def run(callback, *extra, module=None, epochs=6):
    pl.seed_everything(4, verbose=False)
    module = module or TinyModule(batch_norm=True, dropout=0.2)
    trainer = make_trainer(callback, *extra, max_epochs=epochs)
    trainer.fit(module, DataLoader(make_data(N), 8, shuffle=True))
    return module, trainer


class LossesAtTheEnd(pl.Callback):
    """Work out each sample's loss by hand where an epoch ends."""

    def __init__(self):
        self.rows = {}

    def on_train_epoch_end(self, trainer, pl_module):
        x, y = make_data(N).tensors
        pl_module.eval()
        with torch.no_grad():
            losses = F.cross_entropy(pl_module(x), y, reduction="none")
        self.rows[trainer.current_epoch] = losses
        pl_module.train()


def test_what_was_left_out_is_seen_as_it_is_after_the_epoch():
    callback, by_hand = make(), LossesAtTheEnd()
    run(callback, by_hand)
    left_out = torch.arange(N) % 3 != 0
    for epoch in (2, 3, 4):
        row = callback.trajectories.rows[epoch]
        torch.testing.assert_close(row[left_out], by_hand.rows[epoch][left_out])
        # The others keep the loss with which they were trained, in train mode.
        assert not torch.isclose(row[~left_out], by_hand.rows[epoch][~left_out]).any()


def test_a_look_leaves_no_trace():
    looked, _ = run(make(1))
    unlooked, _ = run(make(0))
    assert_identical(weights_of(looked), weights_of(unlooked))


@pytest.mark.parametrize("every", [0, 1, 2])
def test_it_comes_as_often_as_the_policy_asks_and_never_after_the_last_epoch(every):
    callback = make(every)
    run(callback, epochs=7)
    is_seen = [not row.isnan().any() for row in callback.trajectories.rows]
    looks = [epoch for epoch in range(2, 6) if every and epoch % every == 0]
    assert [epoch for epoch, seen in enumerate(is_seen) if seen and epoch >= 2] == looks


def test_a_look_counts_as_a_third_of_a_pass():
    callback = make()
    run(callback)
    trained = [record.num_trained for record in callback._session.pruner.record.epochs]
    assert trained == [N, N, *[20 + round(40 / 3)] * 3, 20]


def test_the_signals_sums_are_of_what_was_trained():
    callback = make(signal=LossAverage)
    run(callback)
    assert callback.signal.counts == [N, N, 20, 20, 20, 20]


def test_what_is_looked_at_gets_odds_and_no_rank():
    class Noting(LabelOdds):
        def close_notes(self, calibrated_losses):
            seen.append(~calibrated_losses.isnan())

    seen = []
    clean = make_data(30, seed=2, noise=0.0)
    callback = DynamicPruningCallback(
        "LabelPosterior", EveryThird(), Noting(), PruningSchedule(2, finish="selected"), clean
    )
    run(callback)
    trained = torch.arange(N) % 3 == 0
    assert [mask.equal(trained) for mask in seen] == [False, False, True, True, True, True]
    assert seen[0].all()
    labels = callback._session.pruner.samples.losses
    assert not labels[-2].isnan().any(), "the notes of labels are of what was looked at too"


def test_a_loss_that_is_not_finite_in_a_look_stops_nothing():
    class Overflowing(TinyModule):
        def training_step(self, batch, batch_idx):
            x, y = batch
            losses = F.cross_entropy(self(x), y, reduction="none")
            seen = losses if self.training else losses * torch.inf
            return {"loss": losses.mean(), "sample_loss": seen}

    callback = make()
    run(callback, module=Overflowing())
    assert callback.trajectories.rows[3].isnan().sum() == 40


def test_a_batch_that_the_step_skips_in_a_look_is_not_seen():
    class Skipping(TinyModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss if self.training or batch_idx else None

    callback = make()
    run(callback, module=Skipping())
    assert callback.trajectories.rows[3].isnan().sum() == 8


def test_a_step_that_shows_no_losses_in_a_look_is_refused():
    class Hidden(TinyModule):
        def training_step(self, batch, batch_idx):
            if self.training:
                return super().training_step(batch, batch_idx)
            return self(batch[0]).pow(2).mean()

    with pytest.raises(MisconfigurationException, match="to show one loss per sample"):
        run(make(), module=Hidden())


def test_a_step_that_optimises_by_hand_is_not_run_for_a_look():
    class ByHand(TinyModule):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
            return loss

    callback = make()
    run(callback, module=ByHand())
    assert [int(row.isnan().sum()) for row in callback.trajectories.rows] == [0, 0, *[40] * 4]


def test_a_container_of_loaders_is_looked_at_in_its_form():
    class Named(TinyModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["only"], batch_idx)

    callback = make()
    trainer = make_trainer(callback, max_epochs=5)
    trainer.fit(Named(), {"only": DataLoader(make_data(N), 8, shuffle=True)})
    assert not callback.trajectories.rows[3].isnan().any()


@pytest.mark.parametrize("partition", ["replicated", "fixed"])
def test_ranks_look_at_a_part_each_and_know_all(tmp_path, partition):
    kwargs = {"num_samples": 62, "make_module": Unmoved}
    alone = fit(tmp_path / "alone", 1, callback=make, **kwargs)
    both = fit(tmp_path / "both", 2, callback=partial(make, partition=partition), **kwargs)
    for epoch in range(5):
        expected = alone[0]["rows"][epoch]
        assert not expected.isnan().any()
        found = whole(both, "rows", epoch)
        is_left_out = torch.arange(62) % 3 != 0  # 21 are kept: one too many for two ranks
        torch.testing.assert_close(found[is_left_out], expected[is_left_out])
    if partition == "replicated":
        assert all(same(*rows) for rows in zip(*(result["rows"] for result in both), strict=True))
