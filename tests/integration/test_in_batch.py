"""Choosing within batches: what is forwarded, what is trained, and that a look leaves no trace."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, default_collate

from lightning_alignprune import (
    ELR,
    BatchChoice,
    DivBS,
    DynamicPruningCallback,
    DynamicRandom,
    InfoBatch,
    PruningRun,
    PruningSchedule,
    SelectiveBackprop,
)
from lightning_alignprune.trainer_access.snapshot import Snapshot
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import fit
from tests.integration.test_combinations import Digits, noisy_and_clean_digits
from tests.integration.test_ddp import check_ranks
from tests.integration.test_resume import SaveEverywhere

CHOICES = {"divbs": DivBS(0.5), "selective": SelectiveBackprop(least=0.1, history=64)}
EVERYTHING = DynamicRandom(0.0)


class FirstHalf(BatchChoice):
    description = "FirstHalf trains the first half of each batch"

    def choose(self, look):
        return torch.arange(len(look.losses) // 2)


class Watched(TinyModule):
    """Count what runs through the network in each mode, and what the step itself counts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.trained, self.looked, self.num_steps = [], [], 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        (self.trained if self.training else self.looked).append(len(x))
        self.num_steps += 1
        self.seen += len(x)
        return super().forward(x)


def callback_of(choice, policy=EVERYTHING, **kwargs):
    return DynamicPruningCallback("loss", policy, in_batch=choice, keep_history=True, **kwargs)


def with_names(items):
    return *default_collate(items), [f"sample of class {int(y)}" for _, y in items]


class Named(Watched):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)


def run(module, callback, *extra, epochs=1, data=None, collate_fn=None, **kwargs):
    loader = DataLoader(data or make_data(60), 8, collate_fn=collate_fn)
    trainer = make_trainer(callback, *extra, max_epochs=epochs)
    trainer.fit(module, loader, **kwargs)
    return trainer


def test_all_is_looked_at_and_a_part_is_trained():
    module, callback = Watched(batch_norm=True), callback_of(FirstHalf(), self_check=False)
    run(module, callback)
    assert module.trained == [4] * 7 + [2]
    assert len(module.looked) == 0  # put back, as all that the step changes while looking
    assert module.num_steps == 8
    assert int(module.seen) == 30
    assert int(module.net[1].num_batches_tracked) == 8
    assert len(callback.trajectories.rows[0]) == 60
    assert callback.trajectories.rows[0].isfinite().all()


def trained(by_hand, **kwargs):
    """Train the first half of each batch, as the callback or as a loop does it."""
    torch.manual_seed(4)
    module, data = TinyModule(**kwargs), make_data(64)
    if not by_hand:
        run(module, callback_of(FirstHalf()), epochs=2, data=data)
        return weights_of(module)
    optimizer = module.configure_optimizers()
    for _ in range(2):
        for x, y in DataLoader(data, 8):
            optimizer.zero_grad()
            F.cross_entropy(module(x[:4]), y[:4]).backward()
            optimizer.step()
    return weights_of(module)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_step_is_that_of_a_smaller_batch(batch_norm):
    torch.manual_seed(4)
    assert_identical(
        trained(by_hand=False, batch_norm=batch_norm), trained(by_hand=True, batch_norm=batch_norm)
    )


def test_a_batch_that_cannot_be_cut_gets_weights_of_zero_and_says_so():
    weights, records = [], []
    for collate_fn, kind in ((None, Watched), (with_names, Named)):
        torch.manual_seed(4)
        module, callback = kind(), callback_of(FirstHalf())
        if collate_fn is None:
            run(module, callback)
            assert set(module.trained) == {4, 2}
        else:
            with pytest.warns(UserWarning, match=r"holds a str beside tensors of 8 rows.*weight 0"):
                run(module, callback, collate_fn=collate_fn)
            assert set(module.trained) == {8, 4}  # all is forwarded
        weights.append(weights_of(module))
        records.append(callback.trajectories.rows[0])
    for name, value in weights[0].items():
        if name != "seen":
            torch.testing.assert_close(value, weights[1][name])
    torch.testing.assert_close(*records)


def test_what_is_recorded_is_the_loss_of_each_sample_in_eval_mode():
    torch.manual_seed(4)
    module, data = TinyModule(dropout=0.5), make_data(60)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    callback = callback_of("DivBS")
    run(module, callback, data=data)
    x, y = data.tensors
    expected = F.cross_entropy(module.eval()(x), y, reduction="none").detach()
    torch.testing.assert_close(callback.trajectories.rows[0], expected)


def test_a_look_draws_no_random_numbers():
    def weights(choice, data):
        torch.manual_seed(4)
        module = TinyModule(dropout=0.5)
        run(module, callback_of(choice), epochs=2, data=data)
        return weights_of(module)

    assert_identical(weights(DivBS(1.0), make_data(64)), weights(None, make_data(64)))


def test_divbs_and_a_pruned_epoch_go_together():
    module, callback = Watched(), callback_of("DivBS", InfoBatch(0.9, rescale="none"))
    run(module, callback, epochs=6)
    record = callback._session.pruner.record.epochs
    assert min(epoch.num_trained for epoch in record) < 60
    assert sum(module.trained) < sum(epoch.num_trained for epoch in record)


@pytest.mark.parametrize("name", CHOICES)
def test_it_trains_digits(name):
    module, (data, _) = Digits(), noisy_and_clean_digits()
    callback = callback_of(CHOICES[name])
    before = weights_of(module)
    run(module, callback, epochs=6, data=data)
    after = weights_of(module)
    assert all(value.isfinite().all() for value in after.values())
    assert not any(torch.equal(value, before[key]) for key, value in after.items())
    assert callback.trajectories.rows[-1].isfinite().all()


def test_a_loss_that_keeps_rows_changes_those_that_are_trained():
    module = TinyModule()
    module.loss = ELR(60, 3)
    run(module, callback_of(FirstHalf()))
    is_changed = (module.loss.targets != 0).any(1)
    expected = torch.arange(60) % 8 < 4
    expected[56:] = torch.tensor([True, True, False, False])
    assert torch.equal(is_changed, expected)


def test_a_checkpoint_of_another_choice_is_gone_on_from(tmp_path):
    path = tmp_path / "divbs.ckpt"
    run(TinyModule(), callback_of("DivBS"), epochs=2).save_checkpoint(path)
    callback = callback_of("SelectiveBackprop")
    run(TinyModule(), callback, epochs=4, ckpt_path=path)
    recent = callback._session._extra["in_batch"][0]["recent"]
    assert int((~recent.isnan()).sum()) == 2 * 60


def test_a_look_copies_no_rows_of_a_loss():
    module = TinyModule()
    module.loss = ELR(60, 3)
    for is_quick, expected in ((False, 0.0), (True, 1.0)):
        snapshot = Snapshot(module, is_quick=is_quick)
        module.loss.targets.add_(1.0)
        snapshot.put_back()
        assert (module.loss.targets == expected).all()


def resumable(name, *extra, ckpt_path=None):
    torch.manual_seed(3)
    module = TinyModule()
    callback = callback_of(CHOICES[name], InfoBatch(0.7, rescale="none"))
    trainer = make_trainer(callback, *extra, max_epochs=5)
    trainer.fit(module, DataLoader(make_data(60), 8, shuffle=True), ckpt_path=ckpt_path)
    return weights_of(module)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
@pytest.mark.parametrize("name", CHOICES)
def test_interrupted_equals_uninterrupted(name, tmp_path):
    save = SaveEverywhere(tmp_path)
    whole = resumable(name, save)
    for path in save.paths[3:-1:7]:
        assert_identical(whole, resumable(name, ckpt_path=path))


@pytest.mark.parametrize("name", CHOICES)
def test_two_ranks_decide_alike(name, tmp_path):
    make = partial(
        callback_of,
        CHOICES[name],
        InfoBatch(0.6, rescale="none"),
        schedule=PruningSchedule(stop_fraction=0.84),
    )
    check_ranks(fit(tmp_path, 2, callback=make, batch_norm=True))


def test_it_says_what_is_saved_and_what_is_not(caplog):
    with caplog.at_level("INFO", "lightning.pytorch"):
        run(TinyModule(), callback_of("DivBS"), epochs=2)
    assert "DivBS trains 50 % of each batch, after a forward pass of all of it" in caplog.text
    expected = "Of 120 samples in this process's batches 60 were trained (50 %), after a forward"
    assert expected in caplog.text


class ByHand(TinyModule):
    automatic_optimization = False


class Moves(TinyModule):
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.net[0].weight.mul_(0.9)
        return super().training_step(batch, batch_idx)


class HasTwo(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y) + F.mse_loss(self(x), F.one_hot(y, 3).float())


class HasMetric(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y = batch
        F.mse_loss(self(x), F.one_hot(y, 3).float())
        return F.cross_entropy(self(x), y)


class MadeByHand(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x), y)  # a metric
        return (self(x).softmax(1) - F.one_hot(y, 3)).square().mean()


def test_a_loss_is_told_from_a_metric():
    run(HasMetric(), callback_of("DivBS"))
    with pytest.raises(MisconfigurationException, match="to show one loss per sample"):
        run(MadeByHand(), callback_of("DivBS", self_check=False))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (ByHand, "expected automatic optimisation for in_batch="),
        (HasTwo, "expected training_step to show one loss per sample"),
        (Moves, r"leave the trained parameters to the optimizer, so that a batch can be looked at"),
    ],
)
def test_refusals(module, text):
    with pytest.raises(MisconfigurationException, match=text):
        run(module(), callback_of("DivBS"))


def test_divbs_asks_for_a_last_layer_that_it_can_see():
    module = TinyModule()
    module.net = torch.nn.Sequential(torch.nn.Unflatten(1, (6, 1)), torch.nn.Conv1d(6, 3, 1),
                                     torch.nn.Flatten())  # fmt: skip
    with pytest.raises(MisconfigurationException, match=r"no nn.Linear with an output of shape"):
        run(module, callback_of("DivBS"))
    run(module, callback_of("SelectiveBackprop"))


def test_a_loop_of_ones_own_has_no_way_to_look():
    with pytest.raises(MisconfigurationException, match="in_batch"):
        PruningRun(callback_of("DivBS"), make_data(60), batch_size=8, max_epochs=2)
