"""``restore_rng`` gives every rank its own generators back."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint

from lightning_alignprune import DynamicPruningCallback
from lightning_alignprune.fit.rng_state import collect_rng_states, restore_own_states
from tests.conftest import TinyModule, assert_identical
from tests.integration.ranked_fits import SaveAt, fit


class SeedsRanks(TinyModule):
    """Draws noise of its own on every rank."""

    def __init__(self, **kwargs):
        super().__init__(dropout=0.3)

    def on_fit_start(self):
        torch.manual_seed(self.global_rank + 100)


class SaveStates(Checkpoint):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(torch.get_rng_state(), self.folder / f"state{trainer.global_rank}.pt")


def make_callback():
    return DynamicPruningCallback("loss", restore_rng=True, keep_history=True)


def test_each_rank_goes_on_with_its_own(tmp_path):
    states, results = [], []
    path = tmp_path / "two.ckpt"
    settings = {"make_module": SeedsRanks, "callback": make_callback}
    for name, ckpt in (("whole", None), ("resumed", path)):
        folder = tmp_path / name
        extra = [partial(SaveStates, folder)] + ([partial(SaveAt, path, 2)] if ckpt is None else [])
        results.append(fit(folder, 2, extra=extra, ckpt=ckpt, **settings))
        states.append([torch.load(folder / f"state{rank}.pt") for rank in (0, 1)])
    assert not torch.equal(*states[0])
    for before, after in zip(*states, strict=True):
        assert torch.equal(before, after)
    assert_identical(results[0][0]["weights"], results[1][0]["weights"])
    saved = torch.load(path, weights_only=True)["callbacks"]["DynamicPruningCallback"]["rng"]
    assert sorted(saved) == [0, 1]


def test_a_rank_that_was_not_saved_is_named():
    saved = {0: collect_rng_states()}
    before = torch.rand(3)
    with pytest.warns(UserWarning, match="no random states of rank 1, 2: dropout"):
        restore_own_states(saved, 1, 3)
    torch.manual_seed(1)
    restore_own_states(saved, 0, 1)
    assert torch.equal(torch.rand(3), before)


def test_the_one_state_of_an_old_checkpoint_is_rank_zeros():
    saved = collect_rng_states()
    before = torch.rand(3)
    restore_own_states(saved, 0, 1)
    assert torch.equal(torch.rand(3), before)
