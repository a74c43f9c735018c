"""Bad input is refused with the argument, the value and the remedy, as early as it can be known."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_alignprune import (
    BatchLoss,
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    MixtureCut,
    Policy,
    PruningSchedule,
    Selection,
)
from tests.conftest import TinyModule, make_data, make_trainer


class CountsSteps(TinyModule):
    steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return super().training_step(batch, batch_idx)


def refuse(match, loader=None, module=None, callback=None, error=MisconfigurationException, **kw):
    """The fit must raise before the first step, and leave nothing on the Trainer."""
    module = module or CountsSteps()
    trainer = make_trainer(callback or DynamicPruningCallback(score="loss"), **kw)
    loader = DataLoader(make_data(), 8) if loader is None else loader
    with pytest.raises(error, match=match):
        trainer.fit(module, loader)
    assert getattr(module, "steps", 0) == 0
    assert "setup_data" not in trainer.fit_loop.__dict__
    assert "training_step" not in trainer.strategy.__dict__


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: InfoBatch(prune_probability=1.4), ValueError, r"prune_probability in \[0, 1\]"),
        (lambda: InfoBatch(prune_probability="0.5"), TypeError, "prune_probability a number"),
        (lambda: InfoBatch(rescale="mean"), ValueError, "rescale to be one of 'expectation'"),
        (lambda: BatchLoss(alpha=1.0), ValueError, r"alpha in \[0, 1\), got 1.0"),
        (lambda: DynamicAlignment(window=3), ValueError, r"window in \[4, inf\), got 3"),
        (lambda: DynamicAlignment(correlation="spearman"), ValueError, "'pearson', 'cosine'"),
        (lambda: PruningSchedule(start_epoch=0), ValueError, "start_epoch in"),
        (lambda: PruningSchedule(stop_fraction=0.0), ValueError, r"stop_fraction in \(0, 1\]"),
        (lambda: PruningSchedule(finish="none"), ValueError, "finish to be one of 'full'"),
        (
            lambda: DynamicPruningCallback(policy="InfoBach"),
            ValueError,
            "names .*InfoBatch.*InfoBach",
        ),
        (lambda: DynamicPruningCallback(score="los"), ValueError, "DynamicAlignment.*got 'los'"),
        (lambda: DynamicPruningCallback(signal=3), TypeError, "Signal object or a name, got 3"),
        (lambda: DynamicPruningCallback(policy=InfoBatch), TypeError, "class instead of an inst"),
        (lambda: DynamicPruningCallback(reference="val"), ValueError, "'validation'.*got 'val'"),
        (lambda: DynamicPruningCallback(dtype="int8"), ValueError, "dtype to be one of 'float32'"),
        (lambda: DynamicPruningCallback(device="cuda"), ValueError, "device to be one of 'auto'"),
    ],
)
def test_values_are_refused_in_the_constructor(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_no_reference_set():
    refuse(
        r"expected a reference set.*got none.*reference_dataloader\(\).*\"validation\"",
        callback=DynamicPruningCallback(),
    )


def test_empty_reference_set():
    empty = TensorDataset(torch.empty(0, 6), torch.empty(0, dtype=torch.long))
    refuse(
        "reference set with samples, got an empty one",
        callback=DynamicPruningCallback(reference=empty),
    )


def test_reference_is_the_training_set():
    data = make_data()
    refuse(
        "reference set apart from the training set",
        loader=DataLoader(data, 8),
        callback=DynamicPruningCallback(reference=data),
    )


def test_reference_of_the_wrong_kind():
    class Module(CountsSteps):
        def reference_dataloader(self):
            return 3

    refuse(
        "DataLoader or Dataset as reference, got int",
        module=Module(),
        callback=DynamicPruningCallback(),
    )


def test_validation_reference_without_validation():
    refuse(
        "validation in every epoch for reference",
        callback=DynamicPruningCallback(reference="validation"),
        limit_val_batches=0,
    )
    refuse(
        "check_val_every_n_epoch=2",
        module=type(
            "WithVal", (CountsSteps,), {"val_dataloader": lambda s: DataLoader(make_data(), 8)}
        )(),
        callback=DynamicPruningCallback(reference="validation"),
        check_val_every_n_epoch=2,
    )


def test_iterable_dataset():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(make_data())

    refuse("map-style training set, got an IterableDataset", loader=DataLoader(Stream(), 8))


def test_several_train_loaders():
    loaders = {"a": DataLoader(make_data(), 8), "b": DataLoader(make_data(), 8)}
    refuse("one train loader, got 2.*ConcatDataset", loader=loaders)


def test_no_loader_at_all():
    class Batches:
        def __iter__(self):
            return iter([(torch.ones(8, 6), torch.ones(8).long())])

    refuse("torch DataLoader for training, got Batches", loader=Batches())


def test_unbatched_loader():
    class Batches(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.ones(8, 6), torch.ones(8).long()

    refuse("batch_size=None", loader=DataLoader(Batches(), batch_size=None))


def test_two_pruning_callbacks():
    with pytest.raises(RuntimeError, match="more than one stateful callback"):  # Lightning's own
        make_trainer(DynamicPruningCallback("loss"), DynamicPruningCallback("loss"))


@pytest.mark.filterwarnings("ignore:.*max_epochs")
def test_a_schedule_that_never_ends():
    refuse("expected max_epochs or max_steps.*0.125", max_epochs=-1)


def test_manual_optimisation_with_a_reference_pass(reference):
    class Manual(CountsSteps):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    refuse(
        "automatic optimisation for a reference pass",
        module=Manual(),
        callback=DynamicPruningCallback(reference=reference),
    )


def raise_in_fit(match, module, callback, error=MisconfigurationException, dataset=None, **kwargs):
    trainer = make_trainer(callback, **kwargs)
    with pytest.raises(error, match=match):
        trainer.fit(module, DataLoader(dataset or make_data(), 8))
    assert "training_step" not in trainer.strategy.__dict__
    return trainer


class HandWritten(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return -torch.log_softmax(self(x), 1).gather(1, y[:, None]).mean()


def test_a_loss_we_cannot_see_is_refused_on_the_first_batch():
    trainer = raise_in_fit(
        r'one loss per sample.*"sample_loss": losses.*register_loss.*BatchLoss',
        HandWritten(),
        DynamicPruningCallback("loss"),
    )
    assert trainer.global_step == 0


def test_a_metric_beside_an_unseen_loss_is_not_taken_for_it():
    class WithMetric(HandWritten):
        def training_step(self, batch, batch_idx):
            F.cross_entropy(self(batch[0]), batch[1])
            return super().training_step(batch, batch_idx)

    trainer = raise_in_fit("one loss per sample", WithMetric(), DynamicPruningCallback("loss"))
    assert trainer.global_step == 0


@pytest.mark.parametrize("wrong", [lambda v: v[:-1], lambda v: v[:, None], lambda v: 1.0])
def test_sample_loss_of_the_wrong_length(wrong):
    class Wrong(TinyModule):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return {"loss": losses.mean(), "sample_loss": wrong(losses)}

    trainer = raise_in_fit(r"sample_loss of shape \(8,\)", Wrong(), DynamicPruningCallback("loss"))
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    "policy", [InfoBatch(0.5), MixtureCut(patience=0)], ids=["infobatch", "cut"]
)
def test_a_detached_sample_loss_cannot_be_weighted(policy):
    class Detached(HandWritten):
        def training_step(self, batch, batch_idx):
            losses = -torch.log_softmax(self(batch[0]), 1).gather(1, batch[1][:, None]).squeeze(1)
            return {"loss": losses.mean(), "sample_loss": losses.detach()}

    trainer = raise_in_fit(
        "sample_loss on the graph.*detached.*rescale='none'",
        Detached(),
        DynamicPruningCallback("loss", policy=policy),
    )
    assert trainer.global_step == 0, "before anything is trained, not at the first weight"


def test_weights_on_a_batch_loss_come_too_late_in_manual_optimisation():
    class Manual(TinyModule):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
            return loss

    callback = DynamicPruningCallback("loss", signal="BatchLoss")
    trainer = raise_in_fit("manual optimisation.*rescale='none'", Manual(), callback)
    assert trainer.current_epoch == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_losses(value):
    class Bad(TinyModule):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            if batch_idx == 2:
                losses = losses + torch.tensor([0, 0, 0, value, 0, 0, 0, 0])
            return {"loss": losses.nan_to_num(0, 0, 0).mean(), "sample_loss": losses}

    raise_in_fit(
        r"finite losses, got NaN or inf for 1 sample\(s\) in epoch 0, first for sample 19.*skip",
        Bad(),
        DynamicPruningCallback("loss"),
        error=RuntimeError,
    )
    skipping = DynamicPruningCallback("loss", on_nonfinite_loss="skip")
    make_trainer(skipping, max_epochs=2).fit(Bad(), DataLoader(make_data(), 8))
    assert skipping.trajectories.rows[0].isnan().nonzero().flatten().tolist() == [19]


def test_a_policy_that_keeps_nothing_falls_back_with_a_warning():
    class KeepsNothing(Policy):
        def select(self, scores, context):
            return Selection(torch.zeros(len(scores), dtype=torch.bool))

    trainer = make_trainer(DynamicPruningCallback("loss", KeepsNothing()), max_epochs=4)
    with pytest.warns(UserWarning, match="KeepsNothing kept no sample for epoch"):
        trainer.fit(TinyModule(), DataLoader(make_data(), 8))
    assert trainer.global_step == 4 * 13


def test_nothing_leaks_when_a_step_raises():
    class Raises(TinyModule):
        def training_step(self, batch, batch_idx):
            if self.trainer.current_epoch == 1:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(DynamicPruningCallback("loss"))
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        trainer.fit(Raises(), DataLoader(make_data(), 8))
    assert "training_step" not in trainer.strategy.__dict__
    assert "setup_data" not in trainer.fit_loop.__dict__


def test_results_before_a_fit():
    with pytest.raises(RuntimeError, match="nothing recorded before a fit"):
        DynamicPruningCallback().trajectories  # noqa: B018


def test_another_dataset_length_in_a_second_fit():
    trainer = make_trainer(DynamicPruningCallback("loss"), max_epochs=2)
    trainer.fit(TinyModule(), DataLoader(make_data(64), 8))
    trainer.fit_loop.max_epochs = 4
    with pytest.raises(MisconfigurationException, match="keep its 64 samples, got 80"):
        trainer.fit(TinyModule(), DataLoader(make_data(80), 8))
