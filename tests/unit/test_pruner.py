import itertools

import pytest
import torch

from lightning_alignprune import BatchLoss, PruningSchedule, SampleLoss, Selection
from lightning_alignprune.policies import IES, POLICIES, UCB, DynamicRandom, InfoBatch, Policy, SeTa
from lightning_alignprune.pruner import BadLossError, Pruner
from lightning_alignprune.scores import DynamicAlignment, LastLoss, MeanLoss
from tests.banks import reloaded

N, EPOCHS = 40, 8
SCORES = {
    "loss": LastLoss,
    "mean": lambda: MeanLoss(window=3),
    "gated mean": lambda: MeanLoss(window=3, gate="reference"),
    "das": lambda: DynamicAlignment(window=5),
    "gated das": lambda: DynamicAlignment(window=5, gate="reference", missing="carry"),
}
REFERENCE = [5.0, 4.0, 3.0, 2.0, 2.5, 3.0, 1.0, 2.0]


def pruner(score="loss", policy="InfoBatch", signal=SampleLoss, stop=1.0, **kwargs):
    policy = POLICIES[policy]() if isinstance(policy, str) else policy
    schedule = PruningSchedule(stop_fraction=stop)
    return Pruner(N, signal(), SCORES[score](), policy, schedule, seed=3, **kwargs)


def run(p, start=0, stop=EPOCHS):
    """Train and close some epochs; return the kept masks that were decided."""
    masks = []
    for epoch in range(start, stop):
        selection = p.decision.selection
        kept = torch.ones(N, dtype=torch.bool) if selection is None else selection.kept
        losses = torch.rand(N, generator=torch.Generator().manual_seed(epoch)) + torch.arange(N) / N
        p.trajectories.record(kept.nonzero().squeeze(1), losses[kept])
        p.close_epoch(epoch, torch.tensor(REFERENCE[epoch]))
        decided = p.decide(epoch + 1, (epoch + 2) / EPOCHS).selection
        masks.append(torch.ones(N, dtype=torch.bool) if decided is None else decided.kept)
    return masks


@pytest.mark.parametrize("signal", [SampleLoss, BatchLoss])
@pytest.mark.parametrize(("score", "policy"), list(itertools.product(SCORES, POLICIES)))
def test_every_combination_runs_and_resumes_alike(score, policy, signal):
    whole = pruner(score, policy, signal)
    masks = run(whole)
    assert all(mask.any() for mask in masks)
    first = pruner(score, policy, signal)
    run(first, stop=5)
    copy = pruner(score, policy, signal)
    copy.load_state_dict(reloaded(first.state_dict()))
    rest = run(copy, start=5)
    assert all(torch.equal(a, b) for a, b in zip(rest, masks[5:], strict=True))


def test_rows_kept_are_those_that_score_and_policy_need():
    assert pruner("loss").trajectories.window == 1
    assert pruner("das").trajectories.window == 5
    assert pruner("loss", IES(revisit_epochs=2)).trajectories.window == 8
    assert pruner("loss", keep_history=True).trajectories.window is None
    gated = pruner("gated mean")
    run(gated, stop=6)
    assert gated.trajectories.epochs == [1, 2, 3, 4, 5]
    assert gated.trajectories.best_epoch == 3


def test_keeping_the_history_does_not_change_the_selection():
    for score in SCORES:
        lean, full = run(pruner(score)), run(pruner(score, keep_history=True))
        assert all(torch.equal(a, b) for a, b in zip(lean, full, strict=True)), score


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (InfoBatch(), [True] * 2),
        (SeTa(prune_probability=0.25), [False] * 2),
        (DynamicRandom(0.5), [False] * 2),
    ],
)
def test_finish_follows_the_policys_habit(policy, expected):
    p = pruner(policy=policy, stop=0.75)
    run(p, stop=6)
    finish = []
    for epoch in (6, 7):
        finish.append(p.decide(epoch, (epoch + 1) / EPOCHS).selection)
    assert [f is None for f in finish] == expected
    if isinstance(policy, SeTa):
        assert [int(f.kept.sum()) for f in finish] == [30, 30]
        assert not torch.equal(finish[0].kept, finish[1].kept)


def test_weights_are_gone_in_the_finish():
    p = pruner(stop=0.75)
    run(p, stop=5)
    assert p.decision.selection.weights is not None
    run(p, start=5, stop=7)
    assert p.decision.selection is None


@pytest.mark.parametrize(("epochs", "pruned"), [(8, 6), (10, 7), (140, 121), (200, 174)])
def test_counter_rule(epochs, pruned):
    schedule = PruningSchedule(stop_fraction=0.875)
    assert sum(schedule.should_prune(e, (e + 1) / epochs) for e in range(epochs)) == pruned


class KeepNone(Policy):
    def select(self, scores, context):
        return Selection(torch.zeros(N, dtype=torch.bool))


class Misshapen(Policy):
    def select(self, scores, context):
        return Selection(torch.ones(N))


def test_empty_selection_falls_back_to_everything():
    p = pruner(policy=KeepNone())
    run(p, stop=1)
    assert p.decision.selection is None
    assert p.decision.is_fallback


def test_misshapen_selection_is_refused():
    with pytest.raises(ValueError, match=r"Misshapen\.select: expected kept to be bools of shape"):
        run(pruner(policy=Misshapen()), stop=1)


def test_bad_losses_are_named_or_skipped():
    p = pruner()
    p.trajectories.record(torch.tensor([4, 7]), torch.tensor([1.0, torch.inf]))
    with pytest.raises(BadLossError, match=r"1 sample.* epoch 0, first for sample 7"):
        p.close_epoch(0, None)
    assert p.close_epoch(0, None, skip_bad=True) == 2  # trained, though not observed
    assert p.trajectories.last[7].isnan()


def test_what_was_looked_at_in_a_forgotten_epoch_is_not_counted():
    p = pruner()
    p.take_look(torch.arange(30), torch.ones(30))
    p.forget_running()
    p.take(torch.arange(10), torch.ones(10))
    assert p.close_epoch(0, None) == 10


def test_state_of_other_objects_is_refused():
    state = pruner(policy="UCB").state_dict()
    with pytest.raises(ValueError, match="policy=UCB, got policy=SeTa"):
        pruner(policy="SeTa").load_state_dict(state)
    assert UCB().state_dict() == state["policy"]
    with pytest.raises(ValueError, match="version 1 or older, got 2"):
        pruner(policy="UCB").load_state_dict({**state, "version": 2})
