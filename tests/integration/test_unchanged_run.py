"""A run in which nothing is pruned is the run without the callback, to the bit."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of


def _fit(module_factory, train_loader, val_loader, *callbacks, **kwargs):
    pl.seed_everything(7, verbose=False)
    module = module_factory()
    trainer = make_trainer(*callbacks, **kwargs)
    trainer.fit(module, train_loader, val_loader)
    return weights_of(module), trainer


@pytest.mark.parametrize("loss", ["functional", "module"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("source", ["dataset", "validation"])
def test_nothing_pruned_is_bit_identical(
    train_loader, val_loader, reference, source, batch_norm, loss
):
    def make():
        return TinyModule(batch_norm=batch_norm, dropout=0.2, loss=loss, logs=True)

    plain, _ = _fit(make, train_loader(shuffle=False), val_loader)
    callback = DynamicPruningCallback(
        policy=InfoBatch(prune_probability=0.0),
        reference=reference if source == "dataset" else "validation",
    )
    ours, _ = _fit(make, train_loader(shuffle=False), val_loader, callback)
    assert_identical(plain, ours)
    assert len(callback.trajectories.epochs) == 4
    assert not callback.trajectories.rows[0].isnan().any()


class BusyModule(TinyModule):
    """Everything a step may touch: metrics, buffers, lists, counters, noise, a frozen BatchNorm."""

    def __init__(self) -> None:
        super().__init__(batch_norm=True, dropout=0.3)
        self.frozen = nn.BatchNorm1d(6).eval()
        self.accuracy = MulticlassAccuracy(3)
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))
        self.outputs: list[torch.Tensor] = []
        self.counter = 0
        self.modes: list[bool] = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x + 0.1 * torch.randn_like(x)
        logits = self(self.frozen(x))
        loss = self.loss(logits, y)
        self.log("train_acc", self.accuracy(logits, y), on_step=True, on_epoch=True)
        self.log("acc_object", self.accuracy, on_step=False, on_epoch=True)
        self.num_steps += 1
        self.counter += 1
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        self.modes.append(self.frozen.training)
        assert len(self.outputs) == 13, "the reference pass left entries behind"
        self.outputs.clear()


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_reference_pass_leaves_no_trace(train_loader, val_loader, reference, tmp_path):
    logs = []
    weights = []
    for with_callback in (False, True):
        logger = pl.loggers.CSVLogger(tmp_path / str(with_callback))
        callbacks = (
            [DynamicPruningCallback(policy=InfoBatch(0.0), reference=reference)]
            if with_callback
            else []
        )
        w, trainer = _fit(
            BusyModule,
            train_loader(shuffle=False),
            val_loader,
            *callbacks,
            logger=logger,
            log_every_n_steps=1,
        )
        weights.append(w)
        assert trainer.lightning_module.counter == 4 * 13
        assert trainer.lightning_module.modes == [False] * 4, "the frozen BatchNorm was woken"
        metrics = {k: v for k, v in trainer.logged_metrics.items() if "pruning" not in k}
        logs.append(metrics)
        assert "log" not in trainer.lightning_module.__dict__
    assert_identical(*weights)
    assert_identical(*logs)


def test_reference_batches_are_not_augmented(train_loader, reference):
    stages = set()

    class Augmenting(TinyModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            if not self.trainer.training:
                stages.add(str(self.trainer.state.stage.value))
            return batch

    trainer = make_trainer(DynamicPruningCallback(reference=reference), max_epochs=1)
    trainer.fit(Augmenting(), train_loader())
    assert stages == {"validate"}


def test_own_generator_leaves_the_global_one_alone(train_loader, reference):
    pl.seed_everything(3, verbose=False)
    make_trainer(DynamicPruningCallback(reference=reference), max_epochs=3).fit(
        TinyModule(), train_loader(shuffle=False)
    )
    after = torch.get_rng_state()
    pl.seed_everything(3, verbose=False)
    make_trainer(max_epochs=3).fit(TinyModule(), train_loader(shuffle=False))
    assert torch.equal(after, torch.get_rng_state())


def test_module_and_datamodule_references(train_loader, reference):
    losses = []

    class Module(TinyModule):
        def reference_dataloader(self):
            return torch.utils.data.DataLoader(reference, 8)

    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return train_loader(shuffle=False)

        def reference_dataloader(self):
            return torch.utils.data.DataLoader(make_data(30, seed=2, noise=0.0), 16)

    for module, kwargs in (
        (Module, {"train_dataloaders": train_loader(shuffle=False)}),
        (TinyModule, {"datamodule": Data()}),
    ):
        pl.seed_everything(0, verbose=False)
        callback = DynamicPruningCallback()
        make_trainer(callback, max_epochs=2).fit(module(), **kwargs)
        losses.append(callback.trajectories.reference)
    torch.testing.assert_close(*losses)
    assert not losses[0].isnan().any()


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_bit_identical_under_other_precisions(train_loader, val_loader, reference, precision):
    def make():
        return TinyModule(batch_norm=True, dropout=0.2, logs=True)

    plain, _ = _fit(make, train_loader(shuffle=False), val_loader, precision=precision)
    callback = DynamicPruningCallback(policy=InfoBatch(0.0), reference=reference)
    ours, _ = _fit(make, train_loader(shuffle=False), val_loader, callback, precision=precision)
    assert_identical(plain, ours)


def test_validation_as_reference_is_the_logged_loss_and_leaves_the_sanity_check_out(
    train_loader, val_loader
):
    logged = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            logged.append(trainer.callback_metrics["val_loss"].item())

    callback = DynamicPruningCallback(reference="validation")
    trainer = make_trainer(callback, Watch(), num_sanity_val_steps=2)
    trainer.fit(TinyModule(), train_loader(), val_loader)
    assert callback.trajectories.reference.tolist() == pytest.approx(logged)


def test_half_precision_halves_the_state(train_loader, reference, tmp_path):
    sizes = []
    for dtype in ("float32", "float16"):
        callback = DynamicPruningCallback(reference=reference, dtype=dtype)
        trainer = make_trainer(callback, max_epochs=8)
        trainer.fit(TinyModule(), train_loader(4000, batch_size=500))
        state = callback.state_dict()
        size = sum(row.numel() * row.element_size() for row in state["trajectories"]["rows"])
        sizes.append(size)
        trainer.save_checkpoint(tmp_path / f"{dtype}.ckpt")
    assert sizes[0] == 2 * sizes[1] == 4 * 8 * 4000
    files = [(tmp_path / f"{dtype}.ckpt").stat().st_size for dtype in ("float32", "float16")]
    assert files[0] - files[1] > 0.9 * sizes[1]
