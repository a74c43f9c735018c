"""A training set that is loaded again must hold the same samples at the same places."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    TensorDataset,
)

from lightning_alignprune import DynamicPruningCallback, InfoBatch, PruningSchedule
from lightning_alignprune.trainer_access.dataset_samples import hash_of_samples
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration.forked import run_forked, run_ranks

DATA = make_data(60)
REFUSED = "the samples at the places where they were {}, got others"


def part(seed, num_samples=40):
    generator = torch.Generator().manual_seed(seed)
    return Subset(DATA, torch.randperm(60, generator=generator)[:num_samples].tolist())


class Reloads(pl.LightningDataModule):
    """Gives the train sets in turn, the last one for good."""

    def __init__(self, *sets):
        super().__init__()
        self.sets, self.calls = sets, 0

    def train_dataloader(self):
        data = self.sets[min(self.calls, len(self.sets) - 1)]
        self.calls += 1
        return DataLoader(data, 8, shuffle=True)


def fit(data, prune=0.5, every=1, **kwargs):
    schedule = PruningSchedule(1, 1.0)
    callback = DynamicPruningCallback(
        "loss", InfoBatch(prune), schedule=schedule, keep_history=True
    )
    trainer = make_trainer(callback, max_epochs=3, reload_dataloaders_every_n_epochs=every)
    module = TinyModule()
    trainer.fit(module, datamodule=data, **kwargs)
    return callback, trainer, module


class Files(Dataset):
    """A data set that knows its samples by path, as ImageFolder does."""

    def __init__(self, names, labels):
        self.samples = [(f"{name}.png", label) for name, label in zip(names, labels, strict=True)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        name, label = self.samples[index]
        return torch.full((6,), float(name.removesuffix(".png"))) / 60, label


class Chosen(Dataset):
    """A part of a larger array, by numbers of its own."""

    def __init__(self, numbers):
        self.features, self.labels = DATA.tensors
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return self.features[self.numbers[index]], self.labels[self.numbers[index]]


def drawn(seed):
    return torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:40]


SETS = {
    "tensors": lambda seed: TensorDataset(*DATA[drawn(seed)]),
    "files": lambda seed: Files(drawn(seed).tolist(), [0] * 40),
    "numbers": lambda seed: Chosen(drawn(seed).numpy()),
    "a Subset": part,
    "a Subset of a Subset": lambda seed: Subset(part(seed), range(30)),
    "a Subset in a ConcatDataset": lambda seed: ConcatDataset([make_data(9), part(seed)]),
}


@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
@pytest.mark.parametrize("prune", [0.0, 0.5])
def test_another_subset_is_refused(make, prune):
    data = Reloads(make(0), make(1))
    with pytest.raises(MisconfigurationException, match=REFUSED.format("in the epochs before")):
        fit(data, prune)
    assert data.calls == 2, "before the second epoch begins"


def test_labels_that_are_corrected_are_no_other_samples():
    x, y = DATA.tensors
    callback, *_ = fit(Reloads(TensorDataset(x, y), TensorDataset(x, 0 * y)))
    assert callback.trajectories.epochs == [0, 1, 2]


def test_a_set_changed_in_place_is_the_users_own_doing():
    data = TensorDataset(*(part.clone() for part in DATA.tensors))

    class Shifted(Reloads):
        def train_dataloader(self):
            data.tensors[0].add_(1)
            return super().train_dataloader()

    callback, *_ = fit(Shifted(data))
    assert callback.trajectories.epochs == [0, 1, 2]


@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
def test_the_same_subset_made_anew_trains(make):
    callback, *_ = fit(Reloads(make(0), make(0)))
    assert callback.trajectories.epochs == [0, 1, 2]


class DrawsAPart(pl.LightningDataModule):
    """What the refusal advises to who wants other samples in each epoch."""

    def train_dataloader(self):
        return DataLoader(DATA, 8, sampler=RandomSampler(DATA, num_samples=40))


class Still(TinyModule):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_sampler_that_draws_a_part_is_followed_by_index():
    callback = DynamicPruningCallback("loss", InfoBatch(0.0), keep_history=True)
    trainer = make_trainer(callback, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    module = Still()
    trainer.fit(module, datamodule=DrawsAPart())
    rows = torch.stack(callback.trajectories.rows)
    assert (~rows.isnan()).sum(1).tolist() == [40] * 3
    assert not (rows.isnan() == rows.isnan()[0]).all(), "another part in each epoch"
    x, y = DATA.tensors
    true = F.cross_entropy(module(x), y, reduction="none").detach().expand_as(rows)
    torch.testing.assert_close(rows, true.where(~rows.isnan(), rows), equal_nan=True)


@pytest.mark.parametrize("lengths", [(40, 48), (40, 32)])
@pytest.mark.parametrize("prune", [0.0, 0.7])
def test_a_set_that_grows_or_shrinks_is_refused(lengths, prune):
    data = Reloads(*(make_data(length) for length in lengths))
    with pytest.raises(
        MisconfigurationException, match=f"to keep its 40 samples, got {lengths[1]}"
    ):
        fit(data, prune)
    assert data.calls == 2


def test_another_subset_in_a_second_fit_is_refused():
    _, trainer, module = fit(Reloads(part(0)), every=0)
    trainer.fit_loop.max_epochs = 5
    with pytest.raises(MisconfigurationException, match=REFUSED.format("in the epochs before")):
        trainer.fit(module, datamodule=Reloads(part(1)))
    trainer.fit(module, datamodule=Reloads(part(0)))
    assert trainer.callbacks[0].trajectories.epochs == [0, 1, 2, 3, 4]


def test_a_resume_with_another_subset_is_refused(tmp_path):
    _, trainer, _ = fit(Reloads(part(0)), every=0)
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)
    when = REFUSED.format("when the checkpoint was written")
    for again, is_refused in ((part(1), True), (part(0), False)):
        callback = DynamicPruningCallback("loss", schedule=PruningSchedule(1, 1.0))
        trainer = make_trainer(callback, max_epochs=4)
        resume = partial(trainer.fit, TinyModule(), DataLoader(again, 8), ckpt_path=path)
        if is_refused:
            with pytest.raises(MisconfigurationException, match=when):
                resume()
        else:
            resume()
            assert callback.trajectories.epochs[-1] == 3


def test_a_checkpoint_that_does_not_tell_resumes(tmp_path):
    _, trainer, _ = fit(Reloads(part(0)), every=0)
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    del content["callbacks"]["DynamicPruningCallback"]["samples"]
    torch.save(content, path)
    callback = DynamicPruningCallback("loss", schedule=PruningSchedule(1, 1.0))
    loader = DataLoader(part(0), 8)
    make_trainer(callback, max_epochs=4).fit(TinyModule(), loader, ckpt_path=path)
    assert callback.trajectories.epochs[-1] == 3


def fit_a_rank(folder, seeds):
    torch.set_num_threads(1)
    trainer = make_trainer(DynamicPruningCallback("loss"), max_epochs=2, devices=2, strategy="ddp")
    rank = trainer.global_rank
    try:
        trainer.fit(TinyModule(), DataLoader(part(seeds[rank]), 8, shuffle=True))
    except MisconfigurationException as error:
        (folder / f"rank{rank}").write_text(str(error))


@pytest.mark.parametrize("seeds", [(0, 1), (0, 0)])
def test_ranks_with_other_subsets_are_refused_alike(tmp_path, seeds):
    work = partial(run_ranks, partial(fit_a_rank, tmp_path, seeds), 2)
    run_forked(work, tmp_path / "log.txt")
    errors = [path.read_text() for path in tmp_path.glob("rank*")]
    assert len(errors) == (0 if seeds == (0, 0) else 2)
    assert all("on every rank, got others" in error for error in errors)


def test_what_a_hash_tells():
    data = list(range(100))
    assert hash_of_samples(data) is None
    assert hash_of_samples(ConcatDataset([data, data])) is None
    by_name = [
        hash_of_samples(Subset({"a": 1, "b": 2}, names)) for names in (["b", "a"], ["a", "b"])
    ]
    assert by_name[0] != by_name[1]
    same = {
        hash_of_samples(Subset(data, indices))
        for indices in ([2, 3], (2, 3), range(2, 4), torch.tensor([2, 3]))
    }
    one, other = Subset(data, [1, 2]), Subset(data, [3])
    others = {
        hash_of_samples(d)
        for d in (
            one,
            other,
            Subset(one, [0, 1]),
            Subset(one, [1, 0]),
            ConcatDataset([one, other]),
            ConcatDataset([other, one]),
            ConcatDataset([data[:1], one]),
            ConcatDataset([data[:2], one]),
            ConcatDataset([Subset(data, [1]), Subset(data, [2, 3])]),
        )
    }
    assert len(same) == 1
    assert len(others | same) == 10


def test_what_counts_elsewhere_than_in_this_process():
    x, y = DATA.tensors
    plain, rounded = TensorDataset(x, y), TensorDataset(x * (1 + 1e-7), y)
    relabelled = TensorDataset(x, 0 * y)
    here = [hash_of_samples(data) for data in (plain, rounded, relabelled)]
    elsewhere = [hash_of_samples(data, in_process=False) for data in (plain, rounded, relabelled)]
    assert here[0] == here[2] != here[1], "labels may be corrected as the run goes"
    assert elsewhere[0] == elsewhere[1] != elsewhere[2], "another machine rounds otherwise"
