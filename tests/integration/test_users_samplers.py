"""A user's sampler draws as it would without the callback, on one rank and on several."""

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader, Sampler

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration.ranked_fits import SaveAt

NUM_SAMPLES, NUM_DRAWN = 40, 20


class Half(Sampler):
    """Draws a random half; says what it drew and which epochs it was told of."""

    def __init__(self, data=None):
        self.drawn, self.epochs = [], []

    def __len__(self):
        return NUM_DRAWN

    def __iter__(self):
        self.drawn.append(self.half())
        return iter(self.drawn[-1])


class NumpyGlobal(Half):
    def half(self):
        return np.random.permutation(NUM_SAMPLES)[:NUM_DRAWN].tolist()


class PythonGlobal(Half):
    def half(self):
        return random.sample(range(NUM_SAMPLES), NUM_DRAWN)


class NumpyOwn(Half):
    def __init__(self, data=None):
        super().__init__()
        self.rng = np.random.default_rng(3)

    def half(self):
        return self.rng.permutation(NUM_SAMPLES)[:NUM_DRAWN].tolist()


class OldNumpyOwn(NumpyOwn):
    def __init__(self, data=None):
        super().__init__()
        self.rng = np.random.RandomState(3)


class PythonOwn(Half):
    def __init__(self, data=None):
        super().__init__()
        self.rng = random.Random(3)

    def half(self):
        return self.rng.sample(range(NUM_SAMPLES), NUM_DRAWN)


class TorchOwn(Half):
    def __init__(self, data=None):
        super().__init__()
        self.rng = torch.Generator().manual_seed(3)

    def half(self):
        return torch.randperm(NUM_SAMPLES, generator=self.rng)[:NUM_DRAWN].tolist()


class Within(Half):
    """Draws what another sampler draws."""

    def __init__(self, data=None):
        super().__init__()
        self.inner = NumpyOwn()

    def half(self):
        return list(self.inner)


class Elsewhere(Half):
    """Its generator is where nobody finds it."""

    def __init__(self, data=None):
        super().__init__()
        rng = np.random.default_rng(3)

        def half():
            return rng.permutation(NUM_SAMPLES)[:NUM_DRAWN].tolist()

        self.half = half


class ByEpoch(Half):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def half(self):
        self.epochs.append(self.epoch)
        generator = torch.Generator().manual_seed(self.epoch)
        return torch.randperm(NUM_SAMPLES, generator=generator)[:NUM_DRAWN].tolist()


KNOWN = [NumpyGlobal, PythonGlobal, NumpyOwn, OldNumpyOwn, PythonOwn, TorchOwn, Within, ByEpoch]


class Trained(pl.Callback):
    """Note the samples of every epoch, read off the batches: feature 0 is the index."""

    def __init__(self):
        self.epochs = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.epochs.setdefault(trainer.current_epoch, []).extend(batch[0][:, 0].int().tolist())


def indexed(num_samples=NUM_SAMPLES):
    data = make_data(num_samples)
    data.tensors[0][:, 0] = torch.arange(num_samples)
    return data


class Module(TinyModule):
    def forward(self, x):
        return super().forward(x / NUM_SAMPLES)


def run(sampler, extra=(), ckpt=None, num_workers=0):
    pl.seed_everything(0, verbose=False)
    data, trained = indexed(), Trained()
    callback = DynamicPruningCallback("loss", InfoBatch(0.0), keep_history=True)
    trainer = make_trainer(callback, trained, *extra, max_epochs=4)
    loader = DataLoader(data, 4, sampler=sampler, num_workers=num_workers)
    trainer.fit(Module(), loader, ckpt_path=ckpt)
    for epoch, drawn in trained.epochs.items():
        row = callback.trajectories.rows[epoch]
        assert (~row.isnan()).nonzero().flatten().tolist() == sorted(drawn)
    return trained.epochs


@pytest.mark.parametrize("kind", [*KNOWN, Elsewhere])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_sampler_draws_anew_in_every_epoch(kind, num_workers):
    epochs = run(kind(), num_workers=num_workers)
    assert [len(drawn) for drawn in epochs.values()] == [NUM_DRAWN] * 4
    assert len({tuple(drawn) for drawn in epochs.values()}) == 4
    assert len({index for drawn in epochs.values() for index in drawn}) > NUM_DRAWN + 8


@pytest.mark.parametrize("kind", KNOWN)
def test_a_resumed_run_draws_what_the_whole_one_drew(kind, tmp_path):
    path = tmp_path / "at.ckpt"
    whole = run(kind(), extra=[SaveAt(path, 1)])
    assert run(kind(), ckpt=path) == {epoch: whole[epoch] for epoch in (2, 3)}


class RandomStates(Checkpoint):
    def on_train_epoch_end(self, trainer, pl_module):
        self.found = [random.random(), np.random.rand(), float(torch.rand(()))]


@pytest.mark.parametrize("kind", [NumpyGlobal, PythonGlobal, ByEpoch])
def test_drawing_leaves_no_trace_in_the_global_generators(kind):
    watches = [RandomStates(), RandomStates()]
    for watch, sampler in zip(watches, (kind(), list(range(NUM_DRAWN))), strict=True):
        run(sampler, extra=[watch])
    assert watches[0].found == watches[1].found


def test_an_own_generator_is_left_as_it_was():
    sampler = NumpyOwn()
    before = sampler.rng.bit_generator.state
    run(sampler)
    assert sampler.rng.bit_generator.state == before


def test_set_epoch_of_a_users_sampler_is_called_before_it_draws():
    sampler = ByEpoch()
    run(sampler)
    assert sampler.epochs == [0, 1, 2, 3]
