"""RePB, RS2 and the score of TailSFT: what they keep survives a resume and is the same on ranks."""

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_alignprune import (
    RS2,
    CenteredLoss,
    DynamicPruningCallback,
    LossSinceStart,
    OrderDP,
    PruningSchedule,
    RePB,
)
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import fit
from tests.integration.test_ddp import check_ranks
from tests.integration.test_resume import SaveEverywhere

METHODS = {
    "repb": {"score": "loss", "policy": RePB(0.7), "signal": CenteredLoss()},
    "rs2": {"score": "loss", "policy": RS2(0.6)},
    "tailsft": {"score": LossSinceStart(), "policy": OrderDP(1.0, 0.5)},
}


def make_callback(name):
    return DynamicPruningCallback(**METHODS[name], keep_history=True)


def run(name, *extra, ckpt_path=None):
    torch.manual_seed(3)
    module, callback = TinyModule(), make_callback(name)
    trainer = make_trainer(callback, *extra, max_epochs=6)
    loader = DataLoader(make_data(60), 8, shuffle=True)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return weights_of(module), callback


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_equals_uninterrupted(name, tmp_path):
    save = SaveEverywhere(tmp_path)
    weights, callback = run(name, save)
    assert min(int((~row.isnan()).sum()) for row in callback.trajectories.rows) < 50
    for path in save.paths[5:-1:6]:
        assert_identical(weights, run(name, ckpt_path=path)[0])


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_decide_alike(name, tmp_path):
    check_ranks(fit(tmp_path, 2, callback=partial(make_callback, name)))


def test_repb_asks_for_what_it_compares():
    with pytest.raises(ValueError, match=r"RePB: expected a signal of the kind CenteredLoss, got "):
        DynamicPruningCallback(score="loss", policy="RePB")
    callback = DynamicPruningCallback("loss", "RePB", "CenteredLoss", PruningSchedule())
    assert callback.policy.weighs_samples
