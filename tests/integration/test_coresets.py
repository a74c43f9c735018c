"""Every coreset method, from warm-up to training on what it chose, on the digits of the demo."""

from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import DynamicPruningCallback, PruningRun, SampleLoss, StaticSubset
from lightning_alignprune.coreset import (
    DUAL,
    EL2N,
    SSP,
    CoresetRun,
    CoresetWarmup,
    DynUnc,
    Forgetting,
    GraNd,
    Moderate,
    Prune4ReL,
    SmallLoss,
    SmallMargin,
    read_indices,
)
from lightning_alignprune.functional import error_norm, symmetric_uniform
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import SaveAt
from tests.integration.ranked_fits import fit as ranked_fit
from tests.integration.test_combinations import Digits, noisy_and_clean_digits
from tests.seeds import enough, successes

METHODS = {
    "small loss": SmallLoss,
    "small loss balanced": lambda: SmallLoss(balanced=True),
    "margin": SmallMargin,
    "forgetting": Forgetting,
    "forgetting max": lambda: Forgetting("max", balanced=True),
    "el2n": EL2N,
    "grand": GraNd,
    "moderate": Moderate,
    "ssp": SSP,
    "prune4rel": Prune4ReL,
    "dyn-unc": lambda: DynUnc(window=2),
    "dual": lambda: DUAL(window=2),
    "dual beta": lambda: DUAL(window=2, sampling="beta"),
}


@pytest.fixture(scope="module")
def digits():
    return noisy_and_clean_digits()[0]


def recipe(*callbacks, **kwargs):
    """As ``functools.partial(pl.Trainer, ...)``, but quiet."""
    return make_trainer(*callbacks, **({"max_epochs": 3} | kwargs))


def trained_in(trainer):
    (callback,) = (c for c in trainer.callbacks if isinstance(c, DynamicPruningCallback))
    return callback


class Seen(Callback):
    """Which samples each step trained on, by their first feature."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values += batch[0][:, :].sum(1).tolist()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_chooses_and_trains(digits, tmp_path, name):
    chosen = []
    for number in range(2):
        pl.seed_everything(0, verbose=False)
        module = Digits()
        start = weights_of(module)
        path = tmp_path / f"{number}.npy"
        run = CoresetRun(METHODS[name](), 0.3, warmup_epochs=4, path=path)
        loader = DataLoader(digits, 32, shuffle=True)
        run.choose(module, loader, recipe)
        assert_identical(start, weights_of(module))  # a copy was warmed up
        run.if_exists = "use"
        trainer = run.fit(module, loader, recipe)
        assert trainer.global_step == 3 * -(-90 // 32)  # from the first epoch on
        assert all(value.isfinite().all() for value in module.parameters())
        chosen.append(read_indices(path))
    assert len(chosen[0]) == len(chosen[0].unique()) == 90
    assert int(chosen[0].max()) < 300
    assert torch.equal(*chosen)


def test_nothing_but_the_subset_is_ever_trained_on(digits, tmp_path):
    seen = Seen()
    run = CoresetRun("small_loss", 0.3, 2, tmp_path / "kept.txt")
    loader = DataLoader(digits, 32, shuffle=True)
    indices = run.choose(Digits(), loader, recipe)
    run.if_exists = "use"
    trainer = run.fit(Digits(), loader, lambda: recipe(seen))
    assert len(seen.values) == 3 * 90
    wanted = digits.tensors[0][indices].sum(1).repeat(3)
    np.testing.assert_allclose(sorted(seen.values), sorted(wanted.tolist()), rtol=1e-5)
    assert trained_in(trainer).policy.indices.tolist() == indices.tolist()


def test_the_warmup_is_training_as_if_it_were_not_there(digits, tmp_path):
    weights = []
    for callbacks in ([], [CoresetWarmup("grand", 0.3, tmp_path / "kept.npy")]):
        pl.seed_everything(3, verbose=False)
        module = Digits()
        trainer = make_trainer(*callbacks, max_epochs=2)
        trainer.fit(module, DataLoader(digits, 32))
        weights.append(weights_of(module))
    assert_identical(*weights)
    assert not any(part._forward_hooks for part in module.modules())


def test_the_pass_is_in_evaluation_mode_with_the_given_labels_and_no_smoothing(digits):
    class Smoothed(Digits):
        def __init__(self):
            super().__init__()
            self.net.insert(2, torch.nn.Dropout(0.5))

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.2)

    x, y = digits.tensors
    for method, expected in (
        ("el2n", lambda logits: error_norm(logits.softmax(1), y)),
        ("small_loss", lambda logits: -F.cross_entropy(logits, y, reduction="none")),
    ):
        module, warmup = Smoothed(), CoresetWarmup(method, 0.3)
        make_trainer(warmup, max_epochs=1).fit(module, DataLoader(digits, 32, shuffle=True))
        with torch.no_grad():
            wanted = expected(module.eval()(x))
        torch.testing.assert_close(warmup.evidence.values, wanted)
        torch.testing.assert_close(warmup.evidence.labels, y)


def test_samples_are_scored_without_augmentation_where_the_data_can_show_them(digits):
    class Data(pl.LightningDataModule):
        shift = 0.0

        def train_dataloader(self):
            x, y = digits.tensors
            return DataLoader(TensorDataset(x + 5.0, y), 32, shuffle=True, drop_last=True)

        def scoring_dataloader(self):
            x, y = digits.tensors
            labels = y.roll(1) if self.shift else y
            return DataLoader(TensorDataset(x, labels), 50, shuffle=True, drop_last=True)

    module, warmup, data = Digits(), CoresetWarmup("ssp", 0.3, feature_layer="net.0"), Data()
    make_trainer(warmup, max_epochs=1).fit(module, datamodule=data)
    with torch.no_grad():
        torch.testing.assert_close(warmup.evidence.features, module.net[0](digits.tensors[0]))
    data.shift = 1.0
    with pytest.raises(MisconfigurationException, match="got samples with other labels"):
        make_trainer(CoresetWarmup("ssp", 0.3), max_epochs=1).fit(Digits(), datamodule=data)
    data.scoring_dataloader = lambda: [digits.tensors]
    with pytest.raises(MisconfigurationException, match="300 training samples, got list"):
        make_trainer(CoresetWarmup("ssp", 0.3), max_epochs=1).fit(Digits(), datamodule=data)


@pytest.mark.parametrize("method", [DUAL(window=3), Forgetting(), EL2N()])
def test_a_resumed_warmup_chooses_the_same(digits, tmp_path, method):
    def warm_up(ckpt=None, extra=()):
        pl.seed_everything(0, verbose=False)
        warmup = CoresetWarmup(method, 0.3)
        trainer = make_trainer(warmup, *extra, max_epochs=4)
        trainer.fit(Digits(), DataLoader(digits, 32, shuffle=True), ckpt_path=ckpt)
        return warmup.indices

    path = tmp_path / "one.ckpt"
    whole = warm_up(extra=[SaveAt(path, 1)])
    assert torch.equal(warm_up(path), whole)


def test_a_resumed_training_goes_on_with_the_same_samples(digits, tmp_path):
    loader = DataLoader(digits, 32, shuffle=True)

    def make(ckpt=None, extra=(), **kwargs):
        pl.seed_everything(0, verbose=False)
        module = Digits()
        run = CoresetRun("el2n", 0.3, 2, tmp_path / "kept.npy", if_exists="use")
        run.fit(module, loader, partial(recipe, *extra, **kwargs), ckpt_path=ckpt)
        return weights_of(module)

    with pytest.raises(FileNotFoundError, match="kept"):
        make(tmp_path / "none.ckpt")
    make()
    path = tmp_path / "zero.ckpt"
    whole = make(extra=[SaveAt(path, 0)])
    assert_identical(make(path), whole)


def test_the_training_is_the_same_with_the_warmup_and_without_it(digits, tmp_path):
    weights = []
    for if_exists in ("refuse", "use"):
        pl.seed_everything(0, verbose=False)
        run = CoresetRun("el2n", 0.3, 2, tmp_path / "kept.npy", if_exists=if_exists)
        trainer = run.fit(Digits, DataLoader(digits, 32, shuffle=True), recipe)
        weights.append(weights_of(trainer.lightning_module))
    assert_identical(*weights)


def test_scores_are_averaged_over_warmups(digits, tmp_path):
    pl.seed_everything(0, verbose=False)
    run = CoresetRun("el2n", 0.3, 1, tmp_path / "kept.npy", num_warmups=2, seed=4)
    loader = DataLoader(digits, 32, shuffle=True)
    indices = run.choose(Digits, loader, recipe)
    assert torch.equal(read_indices(tmp_path / "kept.npy"), indices)
    assert len(indices) == 90
    pl.seed_everything(0, verbose=False)
    warmups = [CoresetWarmup("el2n", 0.3) for _ in range(2)]
    run.path = tmp_path / "other.npy"
    made = iter(warmups)
    for _ in range(2):
        make_trainer(next(made), max_epochs=1).fit(Digits(), loader)
    alone = [set(each.indices.tolist()) for each in warmups]
    assert set(indices.tolist()) not in alone
    with pytest.raises(TypeError, match="module to be a function that makes one"):
        run.choose(Digits(), loader, recipe)


def test_another_share_of_the_same_warmup(digits):
    warmup = CoresetWarmup("small_loss", 0.3)
    with pytest.raises(RuntimeError, match="nothing to choose from before the warm-up"):
        warmup.choose()
    make_trainer(warmup, max_epochs=1).fit(Digits(), DataLoader(digits, 32))
    more = warmup.choose(0.7)
    assert len(more) == 210
    assert set(warmup.indices.tolist()) <= set(more.tolist())


def test_a_file_that_is_there_is_not_replaced_unasked(digits, tmp_path):
    path = tmp_path / "kept.npy"
    loader = DataLoader(digits, 32)
    first = CoresetRun("small_loss", 0.3, 1, path).choose(Digits(), loader, recipe)
    with pytest.raises(FileExistsError, match='if_exists="use" skips the warm-up'):
        CoresetRun("small_loss", 0.5, 1, path).choose(Digits(), loader, recipe)
    used = CoresetRun("small_loss", 0.5, 1, path, if_exists="use")
    assert torch.equal(used.choose(Digits(), loader, recipe), first)
    replaced = CoresetRun("small_loss", 0.5, 1, path, if_exists="replace")
    assert len(replaced.choose(Digits(), loader, recipe)) == 150


def test_refusals_before_the_first_step(digits):
    loader = DataLoader(digits, 32)
    with pytest.raises(MisconfigurationException, match="at least 10 epochs for DUAL, got max_ep"):
        make_trainer(CoresetWarmup("dual", 0.3), max_epochs=4).fit(Digits(), loader)
    with pytest.raises(MisconfigurationException, match=r"feature_layer .* got 'net\.9'"):
        make_trainer(CoresetWarmup("ssp", 0.3, feature_layer="net.9")).fit(Digits(), loader)
    run = CoresetRun("el2n", 0.3, 1, "unwritten.npy")
    with pytest.raises(ValueError, match="Trainers that prune nothing themselves, got 'Dynamic"):
        run.choose(Digits(), loader, partial(recipe, DynamicPruningCallback("loss")))
    with pytest.raises(ValueError, match="Trainers that run whole epochs, got 'fast_dev_run'"):
        run.choose(Digits(), loader, partial(recipe, fast_dev_run=True))


@pytest.mark.parametrize("method", ["small_loss", "el2n", "forgetting"])
def test_samples_that_the_loss_ignores_come_last(digits, method):
    x, y = digits.tensors
    y = y.clone()
    y[10:20] = -100
    warmup = CoresetWarmup(method, 0.3)
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    make_trainer(warmup, max_epochs=2).fit(Digits(), loader)
    assert not {*range(10, 20)} & {*warmup.indices.tolist()}


def test_a_loss_without_classes_has_small_losses_and_nothing_else():
    class Regression(TinyModule):
        def training_step(self, batch, batch_idx):
            return F.mse_loss(self(batch[0]), F.one_hot(batch[1], 3).float())

    warmup = CoresetWarmup("small_loss", 0.5)
    make_trainer(warmup, max_epochs=1).fit(Regression(), DataLoader(make_data(40), 8))
    assert len(warmup.indices) == 20
    with pytest.raises(MisconfigurationException, match=r"classification loss .* for EL2N"):
        make_trainer(CoresetWarmup("el2n", 0.5), max_epochs=1).fit(
            Regression(), DataLoader(make_data(40), 8)
        )


def test_a_dry_run_writes_nothing(digits, tmp_path):
    warmup = CoresetWarmup("dual", 0.3, tmp_path / "kept.npy")
    make_trainer(warmup, fast_dev_run=True).fit(Digits(), DataLoader(digits, 32))
    assert not (tmp_path / "kept.npy").exists()


class WriteIndices(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        indices = trainer.callbacks[0].indices
        np.save(self.folder / f"of_rank{trainer.global_rank}.npy", indices.numpy())


@pytest.mark.parametrize("method", ["forgetting", "el2n"])
def test_two_ranks_choose_one_subset(tmp_path, method):
    path = tmp_path / "kept.npy"
    callback = partial(CoresetWarmup, method, 0.3, path)
    ranked_fit(tmp_path, 2, callback=callback, extra=[partial(WriteIndices, tmp_path)])
    written = read_indices(path)
    assert len(written) == round(0.3 * 62)
    for rank in range(2):
        assert torch.equal(read_indices(tmp_path / f"of_rank{rank}.npy"), written)


@pytest.mark.trained
@pytest.mark.parametrize(
    ("method", "most"), [(SmallLoss(), 0.1), (DUAL(window=4), 0.2), (Forgetting(), 0.32)]
)
def test_few_wrong_labels_are_left_of_two_in_five(method, most):
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float().div(16)[:600], torch.from_numpy(y)[:600]

    def is_clean(seed):
        noisy, wrong = symmetric_uniform(y, 10, 0.4, seed=seed)
        warmup = CoresetWarmup(method, 0.3)
        loader = DataLoader(TensorDataset(x, noisy), 32, shuffle=True)
        make_trainer(warmup, max_epochs=6).fit(Digits(), loader)
        return wrong[warmup.indices].float().mean() < most

    assert successes(is_clean) >= enough(0.99)


def test_a_static_subset_trains_from_the_first_step_on_in_a_loop_of_ones_own(digits):
    method = DynamicPruningCallback("loss", StaticSubset(indices=[3, 1, 200, 7]), SampleLoss())
    run = PruningRun(method, digits, batch_size=2, max_epochs=2)
    net = torch.nn.Linear(64, 10)
    batches = []
    for _ in run.epochs():
        for x, y in DataLoader(digits, batch_sampler=run.batches):
            run.step(lambda x, y: F.cross_entropy(net(x), y), x, y)
            batches.append(len(x))
    assert batches == [2, 2, 2, 2]
