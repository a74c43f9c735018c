"""A loop of one's own prunes as the Trainer does: same batches, losses, weights and parameters."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_alignprune import (
    DynamicAlignment,
    DynamicPruningCallback,
    DynamicRandom,
    InfoBatch,
    PosteriorCut,
    PruningRun,
    PruningSchedule,
    SeTa,
)
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of

EPOCHS = 8
DATA, CLEAN = make_data(100), make_data(24, 1, 0.0)
METHODS = {
    "infobatch": lambda **run: DynamicPruningCallback.infobatch(seed=3, **run),
    "seta": lambda **run: DynamicPruningCallback(
        "loss", SeTa(), schedule=PruningSchedule(finish="partial"), seed=3, **run
    ),
    "bls": lambda **run: DynamicPruningCallback.bls(seed=3, **run),
    "alignprune": lambda **run: DynamicPruningCallback.alignprune(window=5, seed=3, **run),
    "robust": lambda **run: DynamicPruningCallback.robust(seed=3, **run),
    "posterior": lambda **run: DynamicPruningCallback(
        "LabelPosterior", PosteriorCut(), "LabelOdds", seed=3, **run
    ),
}


class Loop:
    """The reader's own code around a `PruningRun`."""

    def __init__(self, method, epochs=EPOCHS):
        torch.manual_seed(0)
        self.model = TinyModule(batch_norm=True)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2, momentum=0.9)
        self.run = PruningRun(method, DATA, batch_size=8, max_epochs=epochs)
        self.loader = DataLoader(DATA, batch_sampler=self.run.batches)
        self.clean = DataLoader(CLEAN, batch_size=8)
        self.needs_reference = method.score.needs_reference or method.signal.needs_reference

    def training_step(self, x, y):
        return F.cross_entropy(self.model(x), y)

    def train_epoch(self):
        self.model.train()
        for batch in self.loader:
            loss = self.run.step(self.training_step, *batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        if self.needs_reference:
            self.model.eval()
            self.run.measure_reference(self.training_step, self.clean)

    def train(self):
        for _ in self.run.epochs():
            self.train_epoch()
        return self


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_and_a_trainer_end_with_the_same_weights(name):
    loop = Loop(METHODS[name]()).train()
    torch.manual_seed(0)
    module = TinyModule(batch_norm=True)
    callback = METHODS[name](reference=CLEAN if loop.needs_reference else None)
    trainer = make_trainer(callback, max_epochs=EPOCHS)
    trainer.fit(module, DataLoader(DATA, batch_size=8, shuffle=True))
    assert_identical(weights_of(loop.model), weights_of(module))
    ours, theirs = loop.run.trajectories, callback.trajectories
    assert ours.epochs == theirs.epochs
    for mine, its in zip(ours.rows, theirs.rows, strict=True):
        assert torch.equal(mine.nan_to_num(-1), its.nan_to_num(-1))
    if callback.score.judges_labels:
        assert loop.run.label_issues().columns == callback.label_issues().columns


def test_a_run_without_pruning_is_plain_training():
    loop = Loop(DynamicPruningCallback("loss", InfoBatch(0.0), seed=3)).train()
    assert loop.run.record.passes == EPOCHS * len(DATA)
    assert loop.run.record.passes_saved == 0


@pytest.mark.parametrize("name", ["infobatch", "alignprune", "posterior"])
def test_a_loop_goes_on_from_a_checkpoint(name):
    whole = Loop(METHODS[name]()).train()
    first = Loop(METHODS[name]())
    for epoch in first.run.epochs():
        first.train_epoch()
        if epoch == 4:
            first.run.end_epoch()
            saved = [x.state_dict() for x in (first.model, first.optimizer, first.run)]
            break
    second = Loop(METHODS[name]())
    for part, state in zip((second.model, second.optimizer, second.run), saved, strict=True):
        part.load_state_dict(state)
    second.train()
    assert_identical(weights_of(second.model), weights_of(whole.model))
    assert second.run.record.passes == whole.run.record.passes


def test_clean_samples_that_were_never_measured_are_asked_for():
    loop = Loop(METHODS["alignprune"]())
    loop.needs_reference = False
    with pytest.raises(MisconfigurationException, match=r"Call run\.measure_reference\("):
        loop.train()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"reference": CLEAN}, r"got reference\. Hand the clean batches to measure_reference"),
        ({"sample_index": 2}, "got sample_index"),
        ({"partition": "fixed", "restore_rng": True}, 'got restore_rng and partition="fixed"'),
    ],
)
def test_what_needs_a_trainer_is_refused(settings, named):
    method = DynamicPruningCallback(DynamicAlignment(5), **settings)
    with pytest.raises(MisconfigurationException, match=named):
        PruningRun(method, DATA, batch_size=2, max_epochs=3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_another_loader_is_not_taken_for_the_runs_own(num_workers):
    loop = Loop(METHODS["infobatch"]())
    for _ in loop.run.epochs():
        for batch in DataLoader(DATA, batch_size=2, shuffle=True, num_workers=num_workers):
            with pytest.raises(MisconfigurationException, match=r"batch_sampler=run\.batches"):
                loop.run.step(loop.training_step, *batch)
            break
        break


def test_more_steps_than_batches_and_a_checkpoint_within_an_epoch_are_refused():
    loop = Loop(METHODS["infobatch"]())
    batch = next(iter(loop.loader))
    with pytest.raises(MisconfigurationException, match="a step for each batch"):
        loop.run.step(loop.training_step, *batch)
    for _ in loop.run.epochs():
        loop.train_epoch()
        with pytest.raises(MisconfigurationException, match="a step for each batch"):
            loop.run.step(loop.training_step, *batch)
        with pytest.raises(MisconfigurationException, match=r"Call run\.end_epoch\(\) first"):
            loop.run.state_dict()
        break


def test_a_step_whose_losses_cannot_be_seen_is_refused():
    loop = Loop(METHODS["infobatch"]())
    loop.training_step = lambda x, y: loop.model(x).square().mean()
    with pytest.raises(MisconfigurationException, match="to show one loss per sample"):
        loop.train()


@pytest.mark.parametrize(
    ("trusted", "message"),
    [
        ([5, 100], r"expected trusted to hold indices in \[0, 100\).*got 100\."),
        ([True] * 7, "expected trusted to have an entry for each of the 100 training samples"),
    ],
)
def test_trusted_samples_of_another_set_are_refused(trusted, message):
    method = DynamicPruningCallback.infobatch(trusted=trusted)
    with pytest.raises(ValueError, match=message):
        PruningRun(method, DATA, batch_size=8, max_epochs=3)


def test_errors_are_those_of_the_run():
    with pytest.raises(ValueError, match=r"^PruningRun: expected batch_size in \[1, inf\), got 0"):
        PruningRun(METHODS["infobatch"](), DATA, batch_size=0, max_epochs=3)
    loop = Loop(METHODS["infobatch"]())
    state = loop.run.state_dict()
    with pytest.raises(
        ValueError, match=r"^PruningRun: expected the checkpoint's policy=InfoBatch"
    ):
        Loop(METHODS["seta"]()).run.load_state_dict(state)
    loop.training_step = lambda x, y: F.cross_entropy(loop.model(x), y) * torch.inf
    with pytest.raises(RuntimeError, match=r"^PruningRun: expected finite losses, got NaN or inf"):
        loop.train()


def test_a_fallback_is_said_whatever_it_rests_on():
    method = DynamicPruningCallback(
        "loss", DynamicRandom(0.999), schedule=PruningSchedule(1, 0.5, "partial"), seed=3
    )
    with pytest.warns(UserWarning, match="kept no sample") as caught:
        Loop(method, epochs=4).train()
    said = [str(warning.message).partition(";")[0] for warning in caught]
    assert said == [f"PruningRun: DynamicRandom kept no sample for epoch {e}" for e in (1, 2, 3)]
