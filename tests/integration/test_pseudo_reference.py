"""A reference found among the training samples: no clean data, no extra pass."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from lightning_alignprune import (
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    PseudoClean,
    PseudoModerate,
)
from lightning_alignprune.functional.coreset import moderate_subset
from lightning_alignprune.trainer_access.dataset_labels import read_labels
from tests.conftest import TinyModule, make_data, make_trainer
from tests.seeds import enough, successes


@pytest.mark.parametrize("reference", ["pseudo", PseudoClean(size=10), PseudoClean(0.3, False)])
def test_it_trains_and_prunes_without_a_clean_set(reference):
    passes = []

    class Counting(TinyModule):
        def forward(self, x):
            passes.append(len(x))
            return super().forward(x)

    callback = DynamicPruningCallback(
        DynamicAlignment(window=6), InfoBatch(0.6), reference=reference, keep_history=True
    )
    trainer = make_trainer(callback, max_epochs=8)
    trainer.fit(Counting(), DataLoader(make_data(), 8, shuffle=True))
    rows = callback.trajectories.rows
    num_trained = sum(int((~row.isnan()).sum()) for row in rows)
    assert num_trained < 800
    before = 8 + 8 + 4  # a batch rehearsed with weights, and one and a half checked
    assert sum(passes) == num_trained + before, "an extra forward pass"
    chosen = (PseudoClean() if reference == "pseudo" else reference).choose(
        callback.trajectories, make_data().tensors[1]
    )
    wanted = torch.stack([row[chosen].nanmean() for row in rows])
    torch.testing.assert_close(callback.trajectories.reference, wanted, equal_nan=True)
    assert trainer.callback_metrics["pruning/reference_loss"].isfinite()


def chosen_as_clean(seed):
    """The training labels and what is taken for clean after three epochs."""
    callback = DynamicPruningCallback(reference="pseudo", keep_history=True)
    data = make_data(300, seed)
    make_trainer(callback, max_epochs=3).fit(TinyModule(), DataLoader(data, 8))
    return data, PseudoClean(size=30).choose(callback.trajectories, read_labels(data))


def test_the_choice_is_balanced_where_labels_can_be_read():
    data, chosen = chosen_as_clean(0)
    assert data.tensors[1][chosen].bincount().tolist() == [10, 10, 10]


@pytest.mark.trained
def test_small_losses_are_mostly_right_labels():
    def few_are_wrong(seed):
        data, chosen = chosen_as_clean(seed)
        x, y = data.tensors
        return int((x[chosen, :3].argmax(1) != y[chosen]).sum()) < 5

    # 20 % of all are wrong, 6 of 30 by chance; among the chosen 3 % (0 to 2 of 30 in 16 seeds),
    # which makes five or more in one seed of 600: a rate of 0.99 holds.
    assert successes(few_are_wrong) >= enough(0.99)


def test_labels_are_read_without_loading_samples():
    class Lazy(torch.utils.data.Dataset):
        targets = (3, 1, 2)

        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise AssertionError("loaded a sample")

    assert read_labels(Lazy()).tolist() == [3, 1, 2]
    assert read_labels(ConcatDataset([Lazy(), Subset(Lazy(), [2])])).tolist() == [3, 1, 2, 2]
    assert read_labels(TensorDataset(torch.rand(4), torch.rand(4))) is None
    numbered = TensorDataset(torch.rand(30), torch.zeros(30).long(), torch.arange(30))
    assert read_labels(numbered) is None
    assert read_labels(TensorDataset(torch.rand(30), torch.arange(30))) is None
    assert read_labels(Subset(Lazy(), [])).tolist() == []

    class Named(Lazy):
        labels = ("cat", "dog", "cat")

    class Noisy(Subset):
        targets = (0, 1)

    assert read_labels(Named()).tolist() == [3, 1, 2]
    assert read_labels(Noisy(Lazy(), [0, 2])).tolist() == [0, 1]


@pytest.mark.parametrize("size", [0, -1, 0.0, 1.0, 1.5])
def test_size_is_checked(size):
    with pytest.raises(ValueError, match=r"PseudoClean: expected size in"):
        PseudoClean(size)


def test_moderate_takes_one_forward_pass_and_survives_a_resume(tmp_path):

    data = make_data()

    def fit(max_epochs, ckpt=None):
        passes = []

        class Counting(TinyModule):
            def forward(self, x):
                if not self.training:
                    passes.append(len(x))
                    features.append(super().forward(x).detach())
                return super().forward(x)

        features = []
        pl.seed_everything(1, verbose=False)
        callback = DynamicPruningCallback(
            DynamicAlignment(window=6),
            InfoBatch(0.6),
            reference=PseudoModerate(size=12, after_epochs=3),
            keep_history=True,
            self_check=False,
        )
        trainer = make_trainer(callback, max_epochs=max_epochs)
        trainer.fit(Counting(), DataLoader(data, 8, shuffle=True), ckpt_path=ckpt)
        trainer.save_checkpoint(tmp_path / f"{max_epochs}.ckpt")
        return callback, passes, features

    callback, passes, features = fit(8)
    assert sum(passes) == 100, "one pass over the training set, once"
    chosen = moderate_subset(torch.cat(features), data.tensors[1], 12)
    wanted = torch.stack([row[chosen].nanmean() for row in callback.trajectories.rows])
    torch.testing.assert_close(callback.trajectories.reference, wanted, equal_nan=True)
    state = torch.load(tmp_path / "8.ckpt", weights_only=True)["callbacks"]
    assert torch.equal(state["DynamicPruningCallback"]["reference"]["chosen"], chosen)
