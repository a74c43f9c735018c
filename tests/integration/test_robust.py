"""The robust preset in real runs: what it cuts, what it leaves alone, what it refuses."""

from functools import cache, partial
from typing import NamedTuple

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_alignprune import (
    CalibratedLoss,
    DynamicPruningCallback,
    MeanLoss,
    MixtureCut,
    PosteriorCut,
    PruningSchedule,
    PseudoClean,
    ReferenceRank,
    SampleLoss,
)
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import fit, make_callback, same
from tests.integration.test_fixed_partition import whole
from tests.seeds import enough, successes


class Digits(pl.LightningModule):
    """Large enough to learn wrong labels by heart."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@cache
def digits():
    x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    return (x / 16).float(), y


class Outcome(NamedTuple):
    """What came of a run on digits: the share of test images that it gets right, and its choice."""

    accuracy: float
    is_wrong: Tensor
    kept: Tensor
    callback: DynamicPruningCallback | None

    @property
    def is_found(self):
        """Most wrong labels are out, and most of what is kept is right."""
        wrong_out, wrong_in = ~self.kept[self.is_wrong], self.is_wrong[self.kept]
        return wrong_out.float().mean() > 0.8 and wrong_in.float().mean() < 0.2


def train_digits(seed, noise, robust=True, epochs=20, **kwargs):
    """Train on labels of which ``noise`` are the next class's. Everything is drawn by the seed."""
    x, y = digits()
    size, num_clean = 600, 100
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    x, y = x[order], y[order]
    is_wrong = torch.rand(size, generator=generator) < noise
    labels = torch.where(is_wrong, (y[:size] + 1) % 10, y[:size])
    clean = TensorDataset(x[1000 : 1000 + num_clean], y[1000 : 1000 + num_clean])
    callback = DynamicPruningCallback.robust(clean, **kwargs) if robust else None
    pl.seed_everything(seed, verbose=False)
    module = Digits()
    trainer = make_trainer(*([callback] if robust else []), max_epochs=epochs)
    trainer.fit(module, DataLoader(TensorDataset(x[:size], labels), 64, shuffle=True))
    is_right = module.net(x[1300:]).argmax(1) == y[1300:]
    selection = callback.decision.selection if robust else None
    kept = torch.ones_like(is_wrong) if selection is None else selection.kept
    return Outcome(float(is_right.float().mean()), is_wrong, kept, callback)


# In 8 of 8 other seeds (100 to 107): 92 % or more of the wrong labels out, at most 5 % of the kept
# wrong, accuracy higher by 0.17 to 0.35. The bounds leave room; a rate of 0.99 is on the safe side.
@pytest.mark.trained
def test_labels_taken_for_the_next_class_are_found_and_left_out():
    def is_helped(seed):
        plain = train_digits(seed, 0.4, robust=False)
        robust = train_digits(seed, 0.4)
        return robust.is_found and robust.accuracy > plain.accuracy + 0.05

    assert successes(is_helped) >= enough(0.99)


@pytest.mark.trained
def test_clean_labels_are_left_alone():
    def is_unharmed(seed):
        plain = train_digits(seed, 0.0, robust=False, epochs=16)
        robust = train_digits(seed, 0.0, epochs=16)
        pruner = robust.callback._pruner
        is_whole = pruner.num_trained == pruner.num_possible
        return is_whole and robust.accuracy > plain.accuracy - 0.05

    # In 8 of 8 other seeds (100 to 107) all was trained. Both runs draw their own orders, and
    # accuracy was lower by 0.003 on average with a spread of 0.008.
    assert successes(is_unharmed) >= enough(0.99)


class Shifted(Dataset):
    """Digits as images of 8 by 8 that are moved by up to two pixels when they are read."""

    def __init__(self, x, y, farthest=2):
        self.x, self.y, self.farthest = x.view(-1, 8, 8), y, farthest

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        by = torch.randint(-self.farthest, self.farthest + 1, (2,)).tolist()
        return self.x[index].roll(by, (0, 1)).flatten(), self.y[index]


def train_shifted(seed, farthest):
    """Train on clean digits, shifted; the reference is, too, if ``farthest`` is above 0."""
    x, y = digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    callback = DynamicPruningCallback.robust(Shifted(x[1000:1200], y[1000:1200], farthest))
    pl.seed_everything(seed, verbose=False)
    loader = DataLoader(Shifted(x[:600], y[:600]), 64, shuffle=True)
    make_trainer(callback, max_epochs=15).fit(Digits(), loader)
    return callback


# In 8 of 8 other seeds (100 to 107); one of them saw wrong labels for an epoch or two. With a plain
# reference each of them ended at an estimate of 0.42 to 0.5.
@pytest.mark.trained
def test_clean_samples_that_are_augmented_as_the_reference_is_are_left_alone():
    def is_unharmed(seed):
        pruner = train_shifted(seed, farthest=2)._pruner
        return pruner.num_trained == pruner.num_possible

    assert successes(is_unharmed) >= enough(0.99)


def test_a_reference_that_is_not_augmented_as_training_is_is_warned_of():
    with pytest.warns(UserWarning, match=r"Give the reference the training transforms; .*Split"):
        callback = train_shifted(0, farthest=0)
    assert callback.signal.noise_share > 0.3, "blurred predictions look like wrong labels"


def test_who_sits_out_an_epoch_is_not_called_cut():
    schedule = PruningSchedule(2, stop_fraction=1.0, finish="selected")
    policy = PosteriorCut(prune_easy=0.5)
    outcome = train_digits(0, 0.4, epochs=10, schedule=schedule, policy=policy)
    pruner = outcome.callback._pruner
    is_called_cut = pruner.samples.cut_since >= 0
    assert is_called_cut.equal(pruner.policy.to_look_at(outcome.kept))
    assert is_called_cut.sum() < (~outcome.kept).sum()


def test_nothing_changes_before_the_first_selection_and_nothing_is_passed_twice():
    passes = {True: 0, False: 0}

    class Counting(TinyModule):
        def forward(self, x):
            passes[self.training] += len(x)
            return super().forward(x)

    class AtEpoch3(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                found.append((weights_of(pl_module), dict(passes)))

    def train(*callbacks):
        pl.seed_everything(2, verbose=False)
        passes.update({True: 0, False: 0})
        trainer = make_trainer(*callbacks, AtEpoch3(), max_epochs=6)
        trainer.fit(Counting(batch_norm=True), DataLoader(make_data(), 8))

    found = []
    train()
    clean = make_data(30, seed=2, noise=0.0)
    schedule = PruningSchedule(4, finish="selected")
    train(DynamicPruningCallback.robust(clean, schedule=schedule))
    assert_identical(found[1][0], found[0][0])
    assert [count for _, count in found] == [
        {True: 400, False: 0},
        {True: 400, False: 132},  # one and a half batches checked, none rehearsed with weights
    ]


def ranked(reference=None, **kwargs):
    """Cut by ranks among the reference's calibrated losses, from the first epoch on."""
    parts = {
        "score": ReferenceRank(window=10),
        "policy": MixtureCut(patience=0),
        "signal": CalibratedLoss(),
        "schedule": PruningSchedule(1, finish="selected"),
        "reference": reference or make_data(30, seed=2, noise=0.0),
        "keep_history": True,
    }
    return DynamicPruningCallback(**(parts | kwargs))


@pytest.mark.parametrize(
    "make_score",
    [ReferenceRank, partial(ReferenceRank, None, "none"), MeanLoss, partial(str, "loss")],
    ids=["ReferenceRank", "whole history", "MeanLoss", "loss"],
)
@pytest.mark.parametrize("policy", ["MixtureCut", "InfoBatch", "SeTa"])
def test_the_recorded_losses_go_with_any_score_and_policy(make_score, policy):
    callback = DynamicPruningCallback(
        make_score(),
        policy,
        CalibratedLoss(),
        PruningSchedule(1, stop_fraction=0.8),
        make_data(30, seed=2, noise=0.0),
    )
    make_trainer(callback, max_epochs=5).fit(TinyModule(), DataLoader(make_data(), 8))
    assert len(callback.trajectories.reference) > 0
    assert callback.trajectories.last.isfinite().all()


def test_half_precision_and_ignored_samples():
    x, y = make_data().tensors
    y = y.clone()
    y[::10] = -100

    class Ignoring(TinyModule):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1], ignore_index=-100)

    callback = ranked()
    trainer = make_trainer(callback, max_epochs=5, precision="bf16-mixed")
    trainer.fit(Ignoring(), DataLoader(TensorDataset(x, y), 8))
    last = callback.trajectories.last
    assert torch.equal(last.isnan(), y == -100)
    kept = callback.decision.selection.kept
    assert kept[y == -100].all(), "never scored, never cut"
    assert not kept.all()


def test_validation_as_reference():
    class Module(TinyModule):
        def validation_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    callback = ranked("validation")
    clean = DataLoader(make_data(40, seed=2, noise=0.0), 16)
    make_trainer(callback, max_epochs=5).fit(Module(), DataLoader(make_data(), 8), clean)
    assert [len(row) for row in callback.trajectories._reference_rows] == [40] * 5
    assert not callback.decision.selection.kept.all()


def test_a_class_that_the_reference_lacks_keeps_its_plain_loss():
    x, y = make_data(60, seed=2, noise=0.0).tensors
    seen = []

    class Noting(TinyModule):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            if self.training and len(logits) == 100:  # not the reference
                seen.append((logits.detach(), batch[1]))
            return F.cross_entropy(logits, batch[1])

    schedule = PruningSchedule(2, finish="selected")
    callback = ranked(TensorDataset(x[y != 2], y[y != 2]), schedule=schedule)
    make_trainer(callback, max_epochs=5).fit(Noting(), DataLoader(make_data(noise=0.4), 100))
    logits, labels = seen[2]  # after the rehearsed step and the first one
    row = callback.trajectories.rows[1]
    plain = F.cross_entropy(logits, labels, reduction="none")
    lacks = make_data(noise=0.4).tensors[1] == 2
    torch.testing.assert_close(row[lacks], plain[labels == 2])
    assert row.isfinite().all()


def test_the_order_of_the_reference_loader_does_not_matter():
    # A sample's rank is averaged over epochs: with itself, not with another's.
    data, found = make_data(noise=0.0), []
    for shuffle in (False, True):
        pl.seed_everything(3, verbose=False)
        reference = DataLoader(make_data(70, seed=2, noise=0.0), 16, shuffle=shuffle)
        callback = ranked(reference)
        make_trainer(callback, max_epochs=5).fit(TinyModule(), DataLoader(data, 8))
        found.append(torch.stack(callback.trajectories._reference_rows))
    torch.testing.assert_close(found[0], found[1])


def test_a_shuffled_validation_set_is_refused_as_soon_as_it_is_seen():
    class Module(TinyModule):
        def validation_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    class Shuffled(torch.utils.data.Sampler):
        def __iter__(self):
            return iter(torch.randperm(40).tolist())

        def __len__(self):
            return 40

    clean = DataLoader(make_data(40, seed=2, noise=0.0), 16, sampler=Shuffled())
    with pytest.raises(MisconfigurationException, match=r"same order in every pass.*shuffle=False"):
        make_trainer(ranked("validation"), num_sanity_val_steps=0).fit(
            Module(), DataLoader(make_data(), 8), clean
        )


@pytest.mark.parametrize("interval", [30, 60])
def test_epochs_without_a_reference_pass_do_not_count_as_waiting(interval):
    class Module(TinyModule):
        def validation_step(self, batch, batch_idx):
            # Falls from pass to pass, whatever is learned.
            logits = self.x_to_y(batch[0]) * (1 + self.trainer.current_epoch)
            return F.cross_entropy(logits, batch[1])

        def x_to_y(self, x):
            return x[:, :3] + 0 * self(x)

    waits = []

    class Waiting(MixtureCut):
        def select(self, scores, context):
            waits.append(context.epochs_since_best)
            return super().select(scores, context)

    callback = ranked(
        "validation",
        policy=Waiting(patience=3, prune_easy=0.0),
        signal=SampleLoss(),
        score=MeanLoss(window=10),
    )
    trainer = make_trainer(
        callback, max_epochs=9, val_check_interval=interval, check_val_every_n_epoch=None
    )
    data = DataLoader(make_data(80, noise=0.4), 8)
    trainer.fit(Module(), data, DataLoader(make_data(40, seed=2, noise=0.0), 40))
    # Every pass was the best so far.
    assert waits == [0] * 8
    assert callback.decision.selection is None, "nothing was cut"


class WithAuxiliaryLoss(TinyModule):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        return loss + 0.1 * F.mse_loss(self.net[0](batch[0]), torch.zeros(len(logits), 16))


class WithMetric(TinyModule):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        with torch.no_grad():
            self.log("sharper", F.cross_entropy(2 * logits, batch[1]))
        return F.cross_entropy(logits, batch[1])


class WithMask(TinyModule):
    def forward(self, x):
        masked = torch.zeros(len(x), 1).fill_(-torch.inf)
        return torch.cat([super().forward(x), masked], 1)


@pytest.mark.parametrize("module", [WithAuxiliaryLoss, WithMetric, WithMask])
def test_one_classification_loss_among_other_things(module):
    callback = ranked()
    make_trainer(callback, max_epochs=5).fit(module(), DataLoader(make_data(), 8))
    assert callback.trajectories.last.isfinite().all()
    assert all(len(row) == 30 for row in callback.trajectories._reference_rows)
    assert not callback.decision.selection.kept.all()


def test_a_column_of_indices_is_not_taken_for_classes():
    # Each sample a class of its own would be kept by the floor within its class.
    x, y = make_data(noise=0.4).tensors

    class Indexed(TinyModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx)

    kept = []
    for data in (TensorDataset(x, y), TensorDataset(x, y, torch.arange(100))):
        pl.seed_everything(3, verbose=False)
        clean = [*make_data(40, seed=2, noise=0.0).tensors, torch.arange(40)][: len(data.tensors)]
        callback = ranked(
            TensorDataset(*clean), policy=MixtureCut(patience=0, min_kept_per_class=0.01)
        )
        make_trainer(callback, max_epochs=5).fit(Indexed(), DataLoader(data, 8))
        kept.append(callback.decision.selection.kept)
    assert not kept[0].all()
    assert torch.equal(*kept)


class Regression(TinyModule):
    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0])[:, 0], batch[1].float())


class SoftTargets(TinyModule):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), F.one_hot(batch[1], 3).float())


class OwnLosses(TinyModule):
    def training_step(self, batch, batch_idx):
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return {"loss": losses.mean(), "sample_loss": losses}


class TwoLosses(TinyModule):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return F.cross_entropy(logits, batch[1]) + F.cross_entropy(2 * logits, batch[1])


@pytest.mark.parametrize("module", [Regression, SoftTargets, OwnLosses, TwoLosses])
def test_a_step_without_logits_is_refused_before_anything_is_trained(module):
    model = module()
    before = weights_of(model)
    with pytest.raises(MisconfigurationException, match=r"CalibratedLoss.*SampleLoss"):
        make_trainer(ranked()).fit(model, DataLoader(make_data(), 8))
    assert_identical(weights_of(model), before)


@pytest.mark.parametrize("reference", ["pseudo", PseudoClean(20)])
def test_without_clean_labels(reference):
    callback = DynamicPruningCallback.robust(
        reference, schedule=PruningSchedule(2, finish="selected")
    )
    make_trainer(callback, max_epochs=6).fit(TinyModule(), DataLoader(make_data(), 8))
    # Nothing stands out among so few; the easy ones take turns until the last epochs.
    assert callback._pruner.num_trained < callback._pruner.num_possible
    for part in ({"signal": "CalibratedLoss"}, {"score": "ReferenceRank"}):
        callback = DynamicPruningCallback.robust(reference, **part)
        with pytest.raises(MisconfigurationException, match="clean"):
            make_trainer(callback).fit(TinyModule(), DataLoader(make_data(), 8))


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_on_a_gpu_and_over_a_resume(tmp_path, device):
    for epochs, ckpt in ((4, None), (7, tmp_path / "4.ckpt")):
        callback = ranked(device=device)
        trainer = make_trainer(callback, max_epochs=epochs, accelerator="gpu")
        trainer.fit(TinyModule(), DataLoader(make_data(), 8), ckpt_path=ckpt)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        assert callback._pruner.num_trained < callback._pruner.num_possible
    assert callback.trajectories.epochs == list(range(7))


def make_robust_rank(**kwargs):
    return make_callback(
        MixtureCut(patience=0, max_wrong=0.4),
        score=ReferenceRank(window=4),
        signal=CalibratedLoss(),
        schedule=PruningSchedule(2, finish="selected"),
        **kwargs,
    )


class Unmoved(TinyModule):
    """Losses that change from epoch to epoch and do not depend on what was trained before."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x) + x[:, :3] * self.trainer.current_epoch, y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_ranks_agree_and_decide_as_one_process(tmp_path):
    kwargs = {"num_samples": 64, "make_module": Unmoved}
    alone = fit(tmp_path / "alone", 1, callback=make_robust_rank, **kwargs)
    both = fit(tmp_path / "both", 2, callback=make_robust_rank, **kwargs)
    fixed = fit(
        tmp_path / "fixed", 2, callback=partial(make_robust_rank, partition="fixed"), **kwargs
    )
    for epoch in range(2):
        torch.testing.assert_close(both[0]["rows"][epoch], alone[0]["rows"][epoch])
        torch.testing.assert_close(whole(fixed, "rows", epoch, 64), alone[0]["rows"][epoch])
    torch.testing.assert_close(both[0]["reference"], alone[0]["reference"])
    kept = alone[0]["kept"][1]
    assert not kept.all()
    for results in (both, fixed):
        assert same(whole(results, "kept", 1, 64), kept)
    for name in ("rows", "kept"):
        assert all(same(a, b) for a, b in zip(both[0][name], both[1][name], strict=True))
    assert both[0]["metrics"] == both[1]["metrics"]
