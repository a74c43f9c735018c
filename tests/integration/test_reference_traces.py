"""What a training step changes by itself is, after a fit with a reference pass, as without one."""

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torchmetrics.classification import MulticlassAccuracy

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from tests.conftest import TinyModule, make_data, make_trainer

REFERENCE = make_data(30, seed=2, noise=0.0)


class Helper:
    """A user's own object, as an EMA or a statistic is kept in."""

    def __init__(self):
        self.count, self.mean, self.seen = 0, torch.zeros(3), {"batches": []}


def blend(teacher, student):
    with torch.no_grad():
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.mul_(0.9).add_(new, alpha=0.1)


def blend_data(teacher, student):
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.data = old.data * 0.9 + new.data * 0.1


def fill(**kinds):
    """Name each kind of state with what makes it, changes it and reads it."""
    return kinds


def bump(name):
    def change(module):
        setattr(module, name, getattr(module, name) + 1)

    return change


def teacher(module):
    return copy.deepcopy(module.net).requires_grad_(False)


def weights(net):
    return [p.tolist() for p in net.parameters()]


def in_place(function):
    return lambda module: function(module.state)


def count_nested(state):
    state[0]["a"][0] += 1
    state.append(0)


def count_up(state):
    state["x"] += 1


def help_along(state):
    state.count += 1
    state.mean += 1
    state.seen["batches"].append(state.count)
    state.late = state.count


def replace_buffer(module):
    module.net.memory = torch.cat([module.net.memory, torch.ones(1)])


# Each kind: what to put on the module, what the step does to it, how it is read.
KINDS = fill(
    teacher=(teacher, lambda m: blend(m.state, m.net), weights),
    teacher_through_data=(teacher, lambda m: blend_data(m.state, m.net), weights),
    hidden_teacher=(
        lambda m: [teacher(m)],
        lambda m: blend(m.state[0], m.net),
        lambda state: weights(state[0]),
    ),
    number=(lambda m: 0, bump("state"), None),
    tensor=(lambda m: torch.zeros(2), in_place(lambda s: s.add_(1)), torch.Tensor.tolist),
    tensor_replaced=(lambda m: torch.zeros(2), bump("state"), torch.Tensor.tolist),
    pair=(lambda m: (torch.zeros(1), 0), in_place(lambda s: s[0].add_(1)), str),
    nested=(lambda m: [{"a": [0]}], in_place(count_nested), str),
    dict=(lambda m: {"x": 0}, in_place(count_up), None),
    ordered=(lambda m: OrderedDict(x=0), in_place(count_up), None),
    defaults=(lambda m: defaultdict(int), in_place(count_up), None),
    counter=(lambda m: Counter(), in_place(count_up), None),
    deque=(lambda m: deque(maxlen=5), in_place(lambda s: s.append(len(s) + torch.rand(()))), str),
    set=(lambda m: set(), in_place(lambda s: s.add(len(s))), None),
    array=(lambda m: np.zeros(2), in_place(lambda s: np.add(s, 1, out=s)), np.ndarray.tolist),
    python_generator=(
        lambda m: random.Random(1),
        in_place(random.Random.random),
        lambda s: s.random(),
    ),
    torch_generator=(
        lambda m: torch.Generator().manual_seed(1),
        in_place(lambda s: torch.rand(1, generator=s)),
        lambda s: torch.rand(1, generator=s).item(),
    ),
    numpy_generator=(
        lambda m: np.random.default_rng(1),
        in_place(lambda s: s.random()),
        lambda s: s.random(),
    ),
    own_object=(lambda m: Helper(), in_place(help_along), lambda s: str(vars(s))),
    metric=(
        lambda m: MulticlassAccuracy(3),
        in_place(lambda s: s(torch.eye(3), torch.arange(3))),
        lambda s: (s.tp.tolist(), s._update_count),
    ),
)


class Stateful(TinyModule):
    """A step that changes ``self.state``, a counter in a submodule and a buffer that grows."""

    def __init__(self, kind):
        super().__init__()
        make, self._change, self._read = KINDS[kind]
        self.net.calls = 0
        self.net.register_buffer("memory", torch.zeros(1))
        self.state = make(self)
        self.alias = self.state

    def training_step(self, batch, batch_idx):
        self._change(self)
        self.net.calls += 1
        replace_buffer(self)
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=0.2, momentum=0.9)


def fit(module, loader, *callbacks):
    pl.seed_everything(1, verbose=False)
    make_trainer(*callbacks, max_epochs=3).fit(module, loader)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_step_changes_is_put_back(kind, train_loader):
    read = KINDS[kind][2] or (lambda value: value)
    pl.seed_everything(1, verbose=False)
    plain = fit(Stateful(kind), train_loader(shuffle=False))
    pl.seed_everything(1, verbose=False)
    callback = DynamicPruningCallback(policy=InfoBatch(0.0), reference=REFERENCE)
    ours = fit(Stateful(kind), train_loader(shuffle=False), callback)
    assert len(callback.trajectories.epochs) == 3
    assert read(ours.state) == read(plain.state)
    assert ours.net.calls == plain.net.calls == 3 * 13
    assert torch.equal(ours.net.memory, plain.net.memory)
    if not kind.endswith("replaced") and kind != "number":
        assert ours.alias is ours.state, "another object took its place"


class ClipsItself(TinyModule):
    """A Wasserstein critic clips its weights, in the step that trains them."""

    def training_step(self, batch, batch_idx):
        for parameter in self.parameters():
            parameter.data.mul_(0.99)
        return super().training_step(batch, batch_idx)


def test_a_step_that_changes_trained_weights_is_refused_by_name(train_loader):
    with pytest.raises(MisconfigurationException, match=r"a step that changes net\.0\.weight"):
        fit(ClipsItself(), train_loader(), DynamicPruningCallback(reference=REFERENCE))


class ClipsAfterwards(TinyModule):
    def on_train_batch_end(self, *args):
        for parameter in self.parameters():
            parameter.data.mul_(0.99)


class TeacherInTheOptimizer(TinyModule):
    def __init__(self, is_frozen):
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(not is_frozen)

    def training_step(self, batch, batch_idx):
        blend(self.teacher, self.net)
        return super().training_step(batch, batch_idx)


def test_the_ways_out_of_that_refusal_work(train_loader, val_loader):
    loader = train_loader()
    callback = DynamicPruningCallback(reference=REFERENCE)
    fit(ClipsAfterwards(), loader, callback)
    assert len(callback.trajectories.epochs) == 3
    with pytest.raises(MisconfigurationException, match="teacher"):
        fit(TeacherInTheOptimizer(False), loader, DynamicPruningCallback(reference=REFERENCE))
    fit(TeacherInTheOptimizer(True), loader, DynamicPruningCallback(reference=REFERENCE))
    trainer = make_trainer(DynamicPruningCallback(reference="validation"), max_epochs=3)
    trainer.fit(ClipsItself(), loader, val_loader)


def test_the_rehearsal_of_a_weighted_step_leaves_no_trace(train_loader):
    calls = []

    class Watched(ClipsItself):
        def training_step(self, batch, batch_idx):
            calls.append(next(self.parameters()).detach().clone())
            return super().training_step(batch, batch_idx)

    fit(Watched(), train_loader(shuffle=False), DynamicPruningCallback("loss"))
    assert len(calls) > 2
    assert torch.equal(calls[0], calls[1]), "the rehearsal changed the weights of the first step"
