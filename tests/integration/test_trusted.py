"""Samples whose labels are known to be right are in every selection."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_alignprune import (
    DynamicPruningCallback,
    Policy,
    PruningSchedule,
    Selection,
)
from lightning_alignprune.pruner import Pruner
from lightning_alignprune.scores import LastLoss
from lightning_alignprune.signals import SampleLoss
from lightning_alignprune.state.trusted import TrustedSamples
from tests.conftest import EpochLog, TinyModule, make_data, make_trainer
from tests.integration.forked import run_forked, run_ranks
from tests.integration.ranked_fits import fit as ranked_fit
from tests.integration.ranked_fits import fit_rank, make_callback, same

N, TRUSTED = 60, [3, 17, 18, 41, 58]


class KeepSome(Policy):
    """Keep every third sample with weight 3, and give the others weight 0."""

    works_on_shares = True

    def select(self, scores, context):
        kept = context.indices % 3 == 0
        return Selection(kept, kept * 3.0)


class Selections(EpochLog):
    def __init__(self):
        super().__init__()
        self.selections, self.trained = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        callback = trainer.callbacks[0]
        self.selections.append(callback.decision.selection)
        self.trained.append(callback._session.sampler.order.tolist())


def fit(callback, ckpt_path=None, epochs=4, num_samples=N):
    torch.manual_seed(0)
    seen = Selections()
    trainer = make_trainer(callback, seen, max_epochs=epochs)
    loader = DataLoader(make_data(num_samples), 8, shuffle=True)
    val_loader = DataLoader(make_data(16, seed=1), 8)
    trainer.fit(TinyModule(), loader, val_loader, ckpt_path=ckpt_path)
    return trainer, seen


ALL = PruningSchedule(stop_fraction=1.0)
FORMS = {
    "list": TRUSTED,
    "array": np.array(TRUSTED[::-1]),
    "tensor": torch.tensor(TRUSTED, dtype=torch.int32),
    "mask": torch.isin(torch.arange(N), torch.tensor(TRUSTED)),
    "list of bools": [i in TRUSTED for i in range(N)],
}


@pytest.mark.parametrize("trusted", FORMS.values(), ids=FORMS)
def test_trusted_samples_weigh_what_the_policy_gives_else_one(trusted):
    callback = DynamicPruningCallback("loss", KeepSome(), schedule=ALL, trusted=trusted)
    _, seen = fit(callback)
    kept, weights = seen.selections[1]
    expected = dict.fromkeys(range(0, N, 3), 3.0) | dict.fromkeys((17, 41, 58), 1.0)
    assert dict(zip(kept.nonzero().flatten().tolist(), weights[kept].tolist(), strict=True)) == (
        expected
    )
    assert set(seen.trained[2]) == set(expected)


@pytest.mark.parametrize(
    "make",
    [
        partial(DynamicPruningCallback.infobatch, 1.0, schedule=ALL),
        partial(DynamicPruningCallback.seta, schedule=PruningSchedule(stop_fraction=0.5)),
        partial(DynamicPruningCallback.bls, policy="DynamicRandom", schedule=ALL),
        partial(DynamicPruningCallback, "loss", "StaticSubset"),
    ],
    ids=["InfoBatch", "SeTa's random finish", "DynamicRandom", "StaticSubset"],
)
def test_no_policy_and_no_finish_leaves_them_out(make):
    _, seen = fit(make(trusted=TRUSTED), epochs=5)
    _, without = fit(make(), epochs=5)
    selections = [s for s in seen.selections if s is not None]
    assert selections
    assert all(bool(kept[TRUSTED].all()) for kept, _ in selections)
    assert any(not s.kept[TRUSTED].all() for s in without.selections if s is not None)


def test_each_rank_keeps_those_of_its_share(tmp_path):
    some = partial(make_callback, KeepSome(), trusted=TRUSTED, schedule=ALL, score="loss")
    replicated = ranked_fit(tmp_path / "replicated", 2, callback=some)
    fixed = ranked_fit(tmp_path / "fixed", 2, callback=partial(some, partition="fixed"))
    wanted = torch.arange(62) % 3 == 0
    wanted[TRUSTED] = True
    for rank in (0, 1):
        assert same(replicated[rank]["kept"][1], wanted)
        assert same(fixed[rank]["kept"][1], wanted[rank::2])


def test_a_resumed_run_goes_on_with_the_same_ones_and_refuses_others(tmp_path):
    def make(trusted=tuple(TRUSTED)):
        return DynamicPruningCallback("loss", KeepSome(), schedule=ALL, trusted=trusted)

    trainer, seen = fit(make(), epochs=2)
    path = tmp_path / "two.ckpt"
    trainer.save_checkpoint(path)
    _, resumed = fit(make(FORMS["mask"]), path)
    assert same(resumed.selections[0].kept, seen.selections[0].kept)
    for others, got in (([1, 2], "others"), (None, "none")):
        with pytest.raises(MisconfigurationException, match=f"trusted samples .* got {got}"):
            fit(make(others), path)


def test_scores_are_theirs_and_only_the_cut_passes_them_by():
    trusting = Pruner(N, SampleLoss(), LastLoss(), KeepSome(), ALL)
    trusting.trust(TrustedSamples("me", TRUSTED))
    trusting.trajectories.record(torch.arange(N), torch.rand(N))
    trusting.close_epoch(0, None)
    decision = trusting.decide(1, 0.5)
    assert not decision.scores[TRUSTED].isnan().any()
    assert decision.counts == [20 + 3]


@pytest.mark.parametrize(
    ("trusted", "error", "said"),
    [
        ("all", TypeError, "indices or a mask, got str"),
        ([0.5, 1.0], TypeError, r"ints or bools of one dimension, got \(2,\) of torch.float32"),
        (torch.zeros(2, 3).bool(), TypeError, r"one dimension, got \(2, 3\) of torch.bool"),
        ([[1], [2, 3]], TypeError, "indices or a mask, got list"),
        ([], ValueError, "to name a sample, got none"),
        ([False, False], ValueError, "to name a sample, got none"),
        ([4, -1], ValueError, r"indices in \[0, inf\), got -1"),
        ([4, 2, 4], ValueError, "each index once, got 4 twice"),
        ([0, 1, 1, 0], ValueError, "A mask is made of bools"),
    ],
)
def test_what_is_no_set_of_samples_is_refused_at_once(trusted, error, said):
    with pytest.raises(error, match=f"DynamicPruningCallback: expected trusted.*{said}"):
        DynamicPruningCallback("loss", trusted=trusted)


@pytest.mark.parametrize(
    ("trusted", "said"),
    [
        ([2, N], rf"indices in \[0, {N}\), the training samples, got {N}"),
        ([True] * (N + 1), f"each of the {N} training samples, got a mask of {N + 1}"),
    ],
)
def test_samples_beyond_the_training_set_are_refused_before_the_first_step(trusted, said):
    with pytest.raises(MisconfigurationException, match=said):
        fit(DynamicPruningCallback("loss", trusted=trusted))


def trusts_its_own_rank():
    return make_callback(trusted=[int(os.environ["LOCAL_RANK"])])


def refused_rank(folder):
    with pytest.raises(MisconfigurationException, match="the same trusted samples on every rank"):
        fit_rank(folder, 2, callback=trusts_its_own_rank)


def test_ranks_that_trust_others_are_refused_on_each(tmp_path):
    work = partial(run_ranks, partial(refused_rank, tmp_path), 2)
    run_forked(work, tmp_path / "log.txt")
