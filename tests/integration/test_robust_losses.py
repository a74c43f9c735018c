"""Losses that keep something of each sample, in fits: with pruning, weights, resumes and ranks."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    ELR,
    SOP,
    BatchLoss,
    DynamicPruningCallback,
    GeneralizedCrossEntropy,
    InfoBatch,
    LastLoss,
    PruningRun,
    PruningSchedule,
    SampleStateLoss,
    SymmetricCrossEntropy,
)
from lightning_alignprune.functional import symmetric_uniform
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import SaveAt, SaveInMidEpoch, fit, make_callback, same
from tests.integration.test_ddp import check_ranks
from tests.integration.test_resume import SaveEverywhere

LOSSES = {
    "gce": lambda n, c: GeneralizedCrossEntropy(),
    "sce": lambda n, c: SymmetricCrossEntropy(1.0, 0.5),
    "elr": ELR,
    "sop": SOP,
    "sop balanced": partial(SOP, balance=0.1),
}
KEEPING = ["elr", "sop"]


class Robust(TinyModule):
    """Nothing but the loss is another than in a stock module."""

    def __init__(self, name="sop", num_samples=60, num_classes=3, **kwargs):
        super().__init__(**kwargs)
        self.loss = LOSSES[name](num_samples, num_classes)


def tables_of(module):
    (loss,) = [part for part in module.modules() if isinstance(part, SampleStateLoss)]
    return loss.table.rows


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float().div(16), torch.from_numpy(y)
    noisy, _ = symmetric_uniform(y[:300], 10, 0.4, seed=0)
    return TensorDataset(x[:300], noisy), TensorDataset(x[300:400], y[300:400])


METHODS = {
    "infobatch": lambda reference: DynamicPruningCallback.infobatch(0.7),
    "alignprune": lambda reference: DynamicPruningCallback.alignprune(reference, window=4),
    "robust": DynamicPruningCallback.robust,
    "margins": lambda reference: DynamicPruningCallback("TimeAverage", "InfoBatch", "WrongEvents"),
    "batch loss": lambda reference: DynamicPruningCallback.bls(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_with_any_method(digits, name, method):
    train, reference = digits
    module = Robust(name, 300, 10)
    module.net = torch.nn.Sequential(
        torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    callback = METHODS[method](reference)
    before = weights_of(module)
    make_trainer(callback, max_epochs=6).fit(module, DataLoader(train, 32, shuffle=True))
    after = weights_of(module)
    assert all(value.isfinite().all() for value in after.values())
    assert not any(torch.equal(value, before[key]) for key, value in after.items())
    num_trained = callback._session.pruner.record.epochs
    assert min(epoch.num_trained for epoch in num_trained) < 300 or method == "robust"
    if name in KEEPING:
        assert not torch.equal(tables_of(module), LOSSES[name](300, 10).table.rows)


@pytest.mark.parametrize("name", KEEPING)
def test_its_cross_entropy_is_what_is_recorded(name):
    data = make_data(60)
    module, callback = Robust(name), DynamicPruningCallback(score="loss")
    before = torch.nn.Linear(6, 3)
    module.net = before
    x, y = data.tensors
    expected = F.cross_entropy(before(x), y, reduction="none").detach()
    make_trainer(callback, max_epochs=1).fit(module, DataLoader(data, 60))
    torch.testing.assert_close(callback.trajectories.rows[0], expected)


@pytest.mark.parametrize("name", KEEPING)
def test_only_what_is_trained_changes_its_rows(name):
    class Watch(pl.Callback):
        def __init__(self):
            self.before, self.changed = None, []

        def on_train_epoch_start(self, trainer, pl_module):
            self.before = tables_of(pl_module).clone()

        def on_train_epoch_end(self, trainer, pl_module):
            self.changed.append((tables_of(pl_module) != self.before).any(1))

    watch = Watch()
    callback = DynamicPruningCallback.alignprune(make_data(20, 1, 0.0), window=4, keep_history=True)
    module = Robust(name)
    make_trainer(callback, watch, max_epochs=8).fit(module, DataLoader(make_data(60), 8))
    trained = [~row.isnan() for row in callback.trajectories.rows]
    assert min(int(row.sum()) for row in trained) < 60
    assert all(torch.equal(a, b) for a, b in zip(watch.changed, trained, strict=True))


def test_looks_beforehand_and_at_the_reference_leave_no_trace():
    def rows(self_check, policy):
        torch.manual_seed(1)
        module = Robust("sop")
        callback = DynamicPruningCallback(
            LastLoss(), policy, reference=make_data(20, 1, 0.0), self_check=self_check
        )
        make_trainer(callback, max_epochs=2).fit(module, DataLoader(make_data(60), 8))
        return tables_of(module)

    weighed, plain = InfoBatch(0.0), InfoBatch(0.0, rescale="none")
    weighed.weighs_samples = True  # the step is rehearsed with weights, which are all 1
    assert torch.equal(rows(True, weighed), rows(False, plain))


def run(name, *extra, ckpt_path=None):
    torch.manual_seed(3)
    module = Robust(name)
    callback = DynamicPruningCallback("loss", InfoBatch(0.7), schedule=PruningSchedule(1, 0.84))
    trainer = make_trainer(callback, *extra, max_epochs=5)
    loader, val_loader = DataLoader(make_data(60), 8, shuffle=True), DataLoader(make_data(20), 8)
    trainer.fit(module, loader, val_loader, ckpt_path=ckpt_path)
    return weights_of(module)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
@pytest.mark.parametrize("name", KEEPING)
def test_interrupted_equals_uninterrupted(name, tmp_path):
    save = SaveEverywhere(tmp_path)
    whole = run(name, save)
    assert "loss._extra_state" in whole
    for path in save.paths[2:-1:4]:
        assert_identical(whole, run(name, ckpt_path=path))


def make_module(name, **kwargs):
    return Robust(name, 64, **kwargs)


@pytest.mark.parametrize("name", KEEPING)
def test_two_ranks_share_the_rows_and_go_as_one_process(name, tmp_path):
    settings = {"num_samples": 64, "make_module": partial(make_module, name)}
    path, other = tmp_path / "one.ckpt", tmp_path / "two.ckpt"
    fit(tmp_path / "alone", 1, extra=[partial(SaveAt, path, 1)], **settings)
    ranks = fit(tmp_path / "ranks", 2, extra=[partial(SaveAt, other, 1)], **settings)
    check_ranks(ranks, 64)  # the weights of all ranks are the same, and the rows are among them
    assert any("_extra_state" in key for key in ranks[0]["weights"])
    one, two = (torch.load(p, weights_only=True)["state_dict"] for p in (path, other))
    # The same batches while nothing is pruned: the same rows as one process makes.
    torch.testing.assert_close(two["loss._extra_state"], one["loss._extra_state"])


@pytest.mark.parametrize("partition", ["replicated", "fixed"])
def test_a_checkpoint_in_mid_epoch_holds_the_rows_of_both_ranks(tmp_path, partition):
    path = tmp_path / "mid.ckpt"
    callback = partial(make_callback, partition=partition)
    settings = {
        "num_samples": 64,
        "make_module": partial(make_module, "elr"),
        "callback": callback,
    }
    whole = fit(tmp_path / "whole", 2, extra=[partial(SaveInMidEpoch, path)], **settings)
    resumed = fit(tmp_path / "resumed", 2, ckpt=path, **settings)
    for before, after in zip(whole, resumed, strict=True):
        for key, value in before["weights"].items():
            assert torch.equal(value, after["weights"][key]), key
    assert same(whole[0]["weights"]["loss._extra_state"], whole[1]["weights"]["loss._extra_state"])


def test_a_loop_of_ones_own():
    data, loss, net = make_data(60), ELR(60, 3), torch.nn.Linear(6, 3)
    pruning = PruningRun(DynamicPruningCallback.infobatch(), data, batch_size=8, max_epochs=4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in pruning.epochs():
        for batch in DataLoader(data, batch_sampler=pruning.batches):
            pruning.step(lambda x, y: loss(net(x), y), *batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert (loss.targets.sum(1) > 0).all()
    assert pruning.record.passes < 4 * 60


def test_it_knows_the_samples_of_a_batch_that_tells_them():
    class Indexed(TensorDataset):
        def __getitem__(self, index):
            return {"x": self.tensors[0][index], "y": self.tensors[1][index], "index": index}

    class Module(Robust):
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch["x"]), batch["y"])

    def collate(items):
        return torch.utils.data.default_collate(sorted(items, key=lambda item: -item["index"]))

    module = Module("elr")
    data = Indexed(*make_data(60).tensors)
    callback = DynamicPruningCallback("loss", "RS2", BatchLoss(), sample_index="index")
    loader = DataLoader(data, 8, shuffle=True, collate_fn=collate)
    module.net = torch.nn.Linear(6, 3)
    with torch.no_grad():
        expected = 0.3 * module.net(data.tensors[0]).softmax(1)
    trainer = make_trainer(callback, max_epochs=1, max_steps=-1)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    trainer.fit(module, loader)
    torch.testing.assert_close(module.loss.targets, expected)


def test_a_loss_for_another_number_of_samples_is_refused():
    text = r"expected SOP\(num_samples=60\), as many as the training set has, got num_samples=64"
    with pytest.raises(MisconfigurationException, match=text):
        make_trainer(DynamicPruningCallback(score="loss")).fit(
            Robust("sop", 64), DataLoader(make_data(60), 8)
        )


def test_without_the_callback_it_says_what_it_lacks():
    with pytest.raises(RuntimeError, match="Train with DynamicPruningCallback or PruningRun"):
        make_trainer().fit(Robust("elr"), DataLoader(make_data(60), 8))
