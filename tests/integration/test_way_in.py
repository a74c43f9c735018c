"""The first minutes with the callback: no arguments, presets, what is in use, what is said."""

import copy
import pickle

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_alignprune import (
    BatchLoss,
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    MixtureCut,
    PruningSchedule,
    SampleLoss,
    Score,
    SeTa,
    Signal,
)
from lightning_alignprune.presets import PRESETS
from tests.conftest import EpochLog, TinyModule, make_data, make_trainer

SAID = "losses of the validation pass are the reference"


def fit(callback, *others, val=True, module=None, **kwargs):
    torch.manual_seed(0)
    trainer = make_trainer(callback, *others, **({"max_epochs": 8} | kwargs))
    train = DataLoader(make_data(), 8)
    clean = DataLoader(make_data(24, seed=1, noise=0.0), 8) if val else None
    trainer.fit(module or TinyModule(), train, clean)
    return trainer


# ---- without a reference ------------------------------------------------------------------------


def test_without_arguments_the_validation_pass_is_the_reference_and_that_is_said_once(caplog):
    callback = DynamicPruningCallback()
    with caplog.at_level("INFO"):
        trainer = fit(callback)
    assert [SAID in record.getMessage() for record in caplog.records].count(True) == 1
    assert bool(callback.trajectories.reference.isfinite().all())
    assert float(trainer.logged_metrics["pruning/pruned_share_so_far"]) > 0.0


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.parametrize("given", [None, "validation"])
def test_an_empty_validation_loader_is_refused_before_the_first_step(given):
    class NothingToValidate(TinyModule):
        def val_dataloader(self):
            return []

    with pytest.raises(MisconfigurationException, match="validation loader without batches"):
        fit(DynamicPruningCallback(reference=given), val=False, module=NothingToValidate())


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"val": False}, "a fit without it"),
        ({"limit_val_batches": 0}, "a fit without it"),
        ({"check_val_every_n_epoch": 2}, "check_val_every_n_epoch=2"),
    ],
)
def test_without_validation_in_every_epoch_the_refusal_names_the_ways(settings, got):
    with pytest.raises(MisconfigurationException, match=rf"{got}.*reference_dataloader\(\)"):
        fit(DynamicPruningCallback(), **settings)


# ---- presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", PRESETS)
def test_every_preset_prunes_and_is_of_the_class_it_is_called_on(word):
    class Own(DynamicPruningCallback):
        pass

    callback = getattr(Own, word)(seed=5, keep_history=True)
    assert type(callback) is Own
    trainer = fit(callback, max_epochs=16)
    assert callback.decision.epoch == 15
    pruned = float(trainer.logged_metrics["pruning/pruned_share_so_far"])
    assert pruned > 0.0 or word == "robust"  # which may find nothing to cut so soon


def test_what_presets_are_made_of():
    made = DynamicPruningCallback.bls(alpha=0.5, policy="SeTa")
    assert isinstance(made.signal, BatchLoss)
    assert made.signal.alpha == 0.5
    assert isinstance(made.policy, SeTa)
    made = DynamicPruningCallback.alignprune("validation", window=5, correlation="cosine")
    assert isinstance(made.score, DynamicAlignment)
    assert (made.score.window, made.score.correlation) == (5, "cosine")
    assert made.reference == "validation"
    made = DynamicPruningCallback.robust(policy=MixtureCut(patience=1), restore_rng=True)
    assert (made.policy.patience, made.restore_rng) == (1, True)


# ---- what is in use -----------------------------------------------------------------------------


def test_the_parts_in_use_are_at_hand_after_a_fit_and_a_new_run_starts_from_those_given():
    given = BatchLoss()
    callback = DynamicPruningCallback("loss", signal=given)
    assert callback.signal is given
    fit(callback)
    used = callback.signal
    assert used is not given
    assert used.state_dict()["ema"] is not None
    fit(callback)
    assert callback.signal is not used
    assert given.state_dict()["ema"] is None


def test_after_a_fit_the_callback_can_be_copied_and_pickled():
    callback = DynamicPruningCallback("loss")
    trainer = fit(callback)
    losses = callback.trajectories.last
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert torch.equal(other.trajectories.last, losses)
    trainer.fit_loop.max_epochs = 10
    trainer.fit(TinyModule(), DataLoader(make_data(), 8))
    assert callback.decision.epoch == 9, "the same Trainer goes on"


class CrashesAtOnce(TinyModule):
    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            raise RuntimeError("crash")
        return super().training_step(batch, batch_idx)


def test_after_a_crash_in_the_first_epoch_a_new_trainer_begins_anew():
    callback = DynamicPruningCallback("loss")
    with pytest.raises(RuntimeError, match="crash"):
        fit(callback, module=CrashesAtOnce())
    assert int(callback.trajectories.running.isfinite().sum()) == 24
    other = DataLoader(make_data(60), 8)  # another data set is no fault now
    seen = []

    class Look(EpochLog):
        def on_train_start(self, trainer, pl_module):
            seen.append(callback.trajectories.running.isfinite().sum().item())

    make_trainer(callback, Look(), max_epochs=3).fit(TinyModule(), other)
    assert seen == [0]
    assert callback.trajectories.num_samples == 60


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_the_same_trainer_forgets_the_part_of_an_epoch_that_crashed():
    class SkipsTheFirstEpoch(TinyModule):
        def training_step(self, batch, batch_idx):
            step = super().training_step(batch, batch_idx)
            return step if self.current_epoch else None

    callback = DynamicPruningCallback("loss", keep_history=True)
    trainer = make_trainer(callback, max_epochs=3)
    data = DataLoader(make_data(), 8)
    with pytest.raises(RuntimeError, match="crash"):
        trainer.fit(CrashesAtOnce(), data)
    trainer.fit(SkipsTheFirstEpoch(), data)
    assert bool(callback.trajectories.rows[0].isnan().all())


# ---- what is said -------------------------------------------------------------------------------


def test_a_run_too_short_to_prune_says_so_once():
    with pytest.warns(UserWarning, match="nothing will be pruned: max_epochs=3") as found:
        fit(DynamicPruningCallback(DynamicAlignment()), max_epochs=3)
    assert len([w for w in found if "nothing will be pruned" in str(w.message)]) == 1


def test_a_run_long_enough_says_nothing(recwarn):
    fit(DynamicPruningCallback("loss", schedule=PruningSchedule(finish="selected")), max_epochs=2)
    assert not [w for w in recwarn if "nothing will be pruned" in str(w.message)]


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"seed": "7"}, TypeError, "expected seed an int"),
        ({"seed": -1}, ValueError, "expected seed in"),
        ({"seed": True}, TypeError, "expected seed an int"),
        ({"schedule": "full"}, TypeError, "expected schedule to be a PruningSchedule"),
        ({"restore_rng": "no"}, TypeError, "expected restore_rng to be True or False"),
        ({"keep_history": 1}, TypeError, "expected keep_history to be True or False"),
        ({"align_lr_schedules": "off"}, TypeError, "expected align_lr_schedules to be True"),
        ({"device": "cuda"}, ValueError, "expected device to be one of"),
        ({"dtype": "float64"}, ValueError, "expected dtype to be one of"),
    ],
)
def test_arguments_are_checked_by_name(settings, error, match):
    with pytest.raises(error, match=match):
        DynamicPruningCallback(**settings)


def test_numpy_numbers_are_numbers():
    callback = DynamicPruningCallback(seed=np.int64(3))
    assert type(callback.seed) is int


# ---- shapes of users' own parts -----------------------------------------------------------------


class ShortScore(Score):
    def compute(self, trajectories):
        return trajectories.last[:-1]


class IntegerScore(Score):
    def compute(self, trajectories):
        return torch.zeros(100, dtype=torch.int64)


class ListPolicy(InfoBatch):
    def select(self, scores, context):
        return [0, 1, 2]


class ShortWeights(InfoBatch):
    def select(self, scores, context):
        kept, _ = super().select(scores, context)
        return type(super().select(scores, context))(kept, torch.ones(3))


class OneValue(Signal):
    def values(self, step):
        return step.sample_losses().mean()


class LosesRows(SampleLoss):
    def close_epoch(self, row, last):
        return row[:5]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"score": ShortScore()}, r"ShortScore\.compute: expected floats of shape \(100,\)"),
        ({"score": IntegerScore()}, r"IntegerScore\.compute: .*got \(100,\) of torch\.int64"),
        ({"policy": ListPolicy()}, r"ListPolicy\.select: expected a Selection, got list"),
        ({"policy": ShortWeights()}, r"ShortWeights\.select: expected weights .*got \(3,\)"),
        ({"signal": OneValue()}, r"OneValue\.values to return floats of shape \(8,\)"),
        ({"signal": LosesRows()}, r"LosesRows\.close_epoch: expected a tensor of shape \(100,\)"),
    ],
)
def test_a_wrong_shape_names_the_class_that_made_it(settings, match):
    with pytest.raises((ValueError, MisconfigurationException), match=match):
        fit(DynamicPruningCallback(**({"score": "loss"} | settings)))
