"""Any score with any policy and any signal trains the digits of the demo."""

import itertools

import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    IES,
    RS2,
    UCB,
    BatchLoss,
    CenteredLoss,
    DynamicAlignment,
    DynamicPruningCallback,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    LastLoss,
    LossSinceStart,
    MeanLoss,
    OrderDP,
    PruningSchedule,
    RePB,
    SampleLoss,
    SeTa,
    StaticSubset,
)
from lightning_alignprune.functional import symmetric_uniform
from tests.conftest import TinyModule, make_trainer

BATCH_SIZE = 75  # four steps an epoch: there are many combinations
SIGNALS = {
    "sample": SampleLoss,
    "batch": BatchLoss,
    "batch corrected": lambda: BatchLoss(alpha=0.7, bias_correction=True),
}
SCORES = {
    "last": LastLoss,
    "mean": MeanLoss,
    "gated mean": lambda: MeanLoss(gate="reference"),
    "das": lambda: DynamicAlignment(window=4, min_observations=2),
    "cosine": lambda: DynamicAlignment(4, "cosine", 2, missing="carry"),
    "gated das": lambda: DynamicAlignment(None, min_observations=2, gate="reference"),
}
POLICIES = {
    "infobatch": InfoBatch,
    "infobatch removing": lambda: InfoBatch(1.0, rescale="none", keep_floor=0.1),
    "seta": lambda: SeTa(num_groups=4),
    "random": DynamicRandom,
    "static": StaticSubset,
    "ies": lambda: IES(threshold=0.1),
    "epsilon": EpsilonGreedy,
    "ucb": UCB,
}
#: What goes with few others is tried with these.
NEWER = {
    "centered": CenteredLoss,
    "since start": LossSinceStart,
    "repb": RePB,
    "orderdp": OrderDP,
    "rs2": RS2,
}
METHODS = [
    *itertools.product(SIGNALS, SCORES, POLICIES),
    *itertools.product(["centered"], ["last", "das"], ["infobatch", "repb"]),
    *itertools.product(["sample", "batch"], ["last", "since start"], ["orderdp", "rs2"]),
]


class Digits(TinyModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )


def noisy_and_clean_digits():
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float().div(16), torch.from_numpy(y)
    noisy, _ = symmetric_uniform(y[:300], 10, 0.4, seed=0)
    return TensorDataset(x[:300], noisy), TensorDataset(x[300:400], y[300:400])


@pytest.fixture(scope="module")
def digits():
    return noisy_and_clean_digits()


@pytest.mark.parametrize(("signal", "score", "policy"), METHODS, ids=str)
def test_it_trains(digits, signal, score, policy):
    train, reference = digits
    callback = DynamicPruningCallback(
        (SCORES | NEWER)[score](),
        (POLICIES | NEWER)[policy](),
        (SIGNALS | NEWER)[signal](),
        PruningSchedule(stop_fraction=1.0),
        reference,
        keep_history=True,
    )
    module = Digits()
    before = [p.detach().clone() for p in module.parameters()]
    trainer = make_trainer(callback, max_epochs=5)
    trainer.fit(module, DataLoader(train, BATCH_SIZE, shuffle=True))
    assert len(callback.trajectories.epochs) == 5
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.isfinite().all() for p in module.parameters())
    num_trained = [int((~row.isnan()).sum()) for row in callback.trajectories.rows]
    assert num_trained[0] == (150 if policy == "static" else 300)
    assert all(n > 0 for n in num_trained)
    assert trainer.global_step == sum(-(-n // BATCH_SIZE) for n in num_trained)
    if policy in ("random", "static", "epsilon", "ucb", *NEWER):
        assert min(num_trained) < 300
