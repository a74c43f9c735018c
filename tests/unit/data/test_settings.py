"""`Split` and `Loading`, and what the data modules make of them."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner

from lightning_alignprune.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    Clothing1MDataModule,
    ImageFolderDataModule,
    InMemoryDataset,
    LabelledDataset,
    Loading,
    NewsDataModule,
    NoisyLabelDataModule,
    Sets,
    Split,
    WebVisionDataModule,
)
from lightning_alignprune.models import Classifier, OptimizerConfig, ScheduleConfig, mlp3

MODULES = [
    CIFAR10DataModule,
    CIFAR100DataModule,
    ImageFolderDataModule,
    WebVisionDataModule,
    Clothing1MDataModule,
    NewsDataModule,
]
FLAT = {
    "reference_size": "split=Split(reference_size=7)",
    "val_size": "split=Split(val_size=7)",
    "train_size": "split=Split(train_size=7)",
    "split_seed": "split=Split(seed=7)",
    "reference_source": "split=Split(reference_source=7)",
    "batch_size": "loading=Loading(batch_size=7)",
    "eval_batch_size": "loading=Loading(eval_batch_size=7)",
    "num_workers": "loading=Loading(num_workers=7)",
    "pin_memory": "loading=Loading(pin_memory=7)",
}


class Toy(NoisyLabelDataModule):
    num_classes = 2

    def make_sets(self) -> Sets:
        labels = torch.arange(40) % 2
        inputs = torch.arange(120.0).reshape(40, 3)
        reference, val, rest = self.split.hold_out("Toy", 40)
        parts = self.split.subset("Toy", rest), reference, val, None
        return Sets(*(InMemoryDataset(inputs, labels, part, labels) for part in parts))


# ---- the two objects ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: Loading(batch_size=0),
            ValueError,
            r"Loading: expected batch_size in \[1, inf\), ",
        ),
        (lambda: Loading(batch_size="8"), TypeError, "Loading: expected batch_size an int in"),
        (lambda: Loading(eval_batch_size=0), ValueError, "Loading: expected eval_batch_size"),
        (lambda: Loading(num_workers=-1), ValueError, "Loading: expected num_workers"),
        (lambda: Loading(pin_memory="no"), TypeError, "Loading: expected pin_memory to be True or"),
        (lambda: Split(-1), ValueError, "Split: expected reference_size to be an int in"),
        (lambda: Split(1.5), ValueError, r"Split: .* or a float in \[0, 1\] \(share\), got 1.5"),
        (lambda: Split(val_size=True), TypeError, "Split: expected val_size"),
        (lambda: Split(train_size="all"), TypeError, "Split: expected train_size"),
        (lambda: Split(seed=-1), ValueError, r"Split: expected seed in \[0, inf\)"),
        (
            lambda: Split(reference_source="train"),
            ValueError,
            "reference_source to be one of 'held",
        ),
        (
            lambda: Split(reference_transform="augmented"),
            ValueError,
            "reference_transform to be one of 'eval', 'train'",
        ),
    ],
)
def test_wrong_arguments_are_named(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_numbers_of_numpy_are_kept_as_plain_ones():
    split = Split(np.int64(3), np.float32(0.5), seed=np.int64(2))
    assert split == Split(3, 0.5, seed=2)
    assert (type(split.reference_size), type(split.val_size), type(split.seed)) == (int, float, int)
    assert type(Loading(np.int64(8)).batch_size) is int


def test_they_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Loading().batch_size = 3


# ---- in the data modules ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("name", FLAT)
def test_an_old_flat_argument_says_how_it_is_written_now(kind, name):
    with pytest.raises(TypeError) as caught:
        kind(**{name: 7})
    assert str(caught.value) == (
        f"{kind.__name__}: expected no argument {name}, got 7. Pass {FLAT[name]}."
    )


@pytest.mark.parametrize("kind", MODULES)
def test_an_unknown_argument_is_refused_as_ever(kind):
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        kind(nonsense=1)


def test_a_subclass_may_have_an_argument_of_an_old_name():
    class Own(Toy):
        def __init__(self, batch_size: int) -> None:
            super().__init__(loading=Loading(batch_size))

    assert Own(batch_size=5).batch_size == 5


def test_what_is_left_open_is_the_data_modules_own():
    web = WebVisionDataModule(split=Split(seed=3), loading=Loading(batch_size=64))
    assert web.split == Split(0.2, 0.2, seed=3)
    assert web.loading == Loading(64, num_workers=4)
    assert WebVisionDataModule(split=Split(0, 0)).split == Split(0, 0)
    assert Toy().split == Split(1000, 1000)
    assert Toy().batch_size == 128


def test_clothing1m_validates_on_what_the_reference_leaves_over():
    assert Clothing1MDataModule(split=Split(0.3)).split == Split(0.3, 0)
    with pytest.raises(
        ValueError, match=r"Clothing1MDataModule: expected val_size to be None, got"
    ):
        Clothing1MDataModule(split=Split(val_size=5))


def test_a_data_module_can_be_copied_and_pickled():
    for again in (
        copy.deepcopy(Toy(split=Split(3))),
        pickle.loads(pickle.dumps(Toy(split=Split(3)))),
    ):
        assert again.split.reference_size == 3


def test_lightnings_batch_size_finder_finds_the_batch_size(tmp_path):
    data = Toy(split=Split(2, 2), loading=Loading(2))
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Classifier(
        mlp3(2, 3, 2),
        2,
        optimizer=OptimizerConfig(lr=1e-3),
        schedule=ScheduleConfig("constant"),
    )
    Tuner(trainer).scale_batch_size(module, datamodule=data, max_trials=2, steps_per_trial=1)
    assert data.batch_size > 2
    assert data.train_dataloader().batch_size == data.batch_size


# ---- what a subclass must bring -----------------------------------------------------------------


def test_a_data_module_without_its_parts_cannot_be_made():
    class Half(NoisyLabelDataModule):
        num_classes = 2

    for kind in (Half, NoisyLabelDataModule):
        with pytest.raises(TypeError, match=r"abstract class .*make_sets"):
            kind()


@pytest.mark.parametrize("arguments", [{"per_sample": "no"}, {"transform": torch.nn.Identity}])
def test_a_wrong_kind_of_a_dataset_is_named(arguments):
    with pytest.raises(TypeError, match=f"InMemoryDataset: expected {next(iter(arguments))} to be"):
        InMemoryDataset(torch.ones(3), torch.arange(3), **arguments)


def test_a_dataset_without_its_samples_cannot_be_made():
    class Half(LabelledDataset):
        pass

    for kind in (Half, LabelledDataset):
        with pytest.raises(TypeError, match=r"abstract class .*__getitem__"):
            kind(torch.arange(3))
