"""The tap inside every kind of training step."""

import copy
import pickle

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    BatchLoss,
    CalibratedLoss,
    DynamicPruningCallback,
    ReferenceRank,
    SampleLoss,
    register_loss,
)
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration.test_gradients import FixedWeights, pruning

WEIGHTS = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 3


class Stock(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        return self.loss(self(x), y)


class ByHand(Stock):
    """Weights written into the loss; what every other module here must equal."""

    def training_step(self, batch, batch_idx):
        x, y, index = batch
        return self.weigh(F.cross_entropy(self(x), y, reduction="none"), index)

    def weigh(self, losses, index):
        if self.trainer.current_epoch == 0:
            return losses.mean()
        return (losses * WEIGHTS[index].to(losses.dtype)).mean()


def fit(module, callback=None, init=0, **kwargs):
    dataset = TensorDataset(*make_data(64).tensors, torch.arange(64))
    torch.manual_seed(init)
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    callbacks = [] if callback is None else [callback]
    trainer = make_trainer(*callbacks, **({"max_epochs": 3} | kwargs))
    trainer.fit(module, DataLoader(dataset, 8))
    return torch.cat([p.detach().flatten().double() for p in module.parameters()])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true", "bf16-true"])
def test_precisions(precision):
    tolerance = 1e-2 if precision == "bf16-true" else 1e-5
    ours = fit(Stock(), pruning(WEIGHTS), precision=precision)
    by_hand = fit(ByHand(), precision=precision)
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=tolerance)


@pytest.mark.gpu
def test_16_mixed():
    ours = fit(Stock(), pruning(WEIGHTS), precision="16-mixed", accelerator="gpu")
    by_hand = fit(ByHand(), precision="16-mixed", accelerator="gpu")
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-4)


@pytest.mark.parametrize("what", ["network", "module"])
def test_compiled(what):
    torch._dynamo.reset()
    module = Stock()
    if what == "network":
        module.net.compile(backend="aot_eager")
        ours = fit(module, pruning(WEIGHTS))
    else:
        ours = fit(torch.compile(module, backend="aot_eager"), pruning(WEIGHTS))
    torch.testing.assert_close(ours, fit(ByHand()), rtol=0, atol=1e-5)


def test_a_loss_module_made_inside_a_compiled_step():
    class Makes(Stock):
        def training_step(self, batch, batch_idx):
            return nn.CrossEntropyLoss()(self(batch[0]), batch[1])

    fit(Makes(), pruning(None))
    torch._dynamo.reset()  # the compiler puts the loss in its graph without calling it
    with pytest.raises(MisconfigurationException, match="0 calls of torch loss functions"):
        fit(torch.compile(Makes(), backend="aot_eager"), pruning(None))


class HookedLater:
    """From the third batch of the second epoch on a hook of a layer makes part of the loss."""

    activity = 0.0

    def training_step(self, batch, batch_idx):
        if self.trainer.current_epoch == 1 and batch_idx == 2:
            self.net[0].register_forward_hook(self.note_activity)
        if self.trainer.current_epoch == 0:
            self.copies = copy.deepcopy(self.net), pickle.loads(pickle.dumps(self.net))
        return super().training_step(batch, batch_idx)

    def note_activity(self, layer, args, result):
        self.activity = F.mse_loss(result, torch.zeros_like(result), reduction=self.reduction)


class Hooked(HookedLater, Stock):
    reduction = "mean"

    def loss_of(self, logits, y):
        return F.cross_entropy(logits, y) + self.activity


class HookedByHand(HookedLater, ByHand):
    reduction = "none"

    def weigh(self, losses, index):
        activity = self.activity.mean(1) if isinstance(self.activity, torch.Tensor) else 0.0
        return super().weigh(losses + activity, index)


def test_a_hook_that_makes_part_of_the_loss_later_on_is_seen():
    module = Hooked()
    module.loss = module.loss_of
    ours = fit(module, pruning(WEIGHTS))
    torch.testing.assert_close(ours, fit(HookedByHand()), rtol=0, atol=1e-5)
    for part in (*module.modules(), *module.copies[0].modules(), *module.copies[1].modules()):
        assert "_compiled_call_impl" not in vars(part)


class Checkpointed(Stock):
    reentrant = False

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointed_backbone(reentrant):
    class Module(Checkpointed):
        def forward(self, x):
            hidden = self.net[0](x)
            return checkpoint(self.net[1:], hidden, use_reentrant=reentrant)

    ours = fit(Module(), pruning(WEIGHTS))
    torch.testing.assert_close(ours, fit(ByHand()), rtol=0, atol=1e-6)


def test_a_loss_inside_a_reentrant_checkpoint_is_refused():
    class Module(Stock):
        def training_step(self, batch, batch_idx):
            x, y, _ = batch

            def loss(hidden):
                return F.cross_entropy(self.net[1:](hidden), y)

            return checkpoint(loss, self.net[0](x), use_reentrant=True)

    with pytest.raises(MisconfigurationException, match="reentrant activation checkpoint"):
        fit(Module(), pruning(WEIGHTS))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.05},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    ],
)
def test_accumulation_and_clipping(kwargs):
    ours = fit(Stock(), pruning(WEIGHTS), **kwargs)
    torch.testing.assert_close(ours, fit(ByHand(), **kwargs), rtol=0, atol=1e-6)


def test_lbfgs_runs_the_step_several_times():
    calls = []

    def make(base):
        class Module(base):
            def training_step(self, batch, batch_idx):
                calls.append(batch_idx)
                return super().training_step(batch, batch_idx)

            def configure_optimizers(self):
                return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

        return Module()

    callback = pruning(WEIGHTS, keep_history=True)
    ours = fit(make(Stock), callback)
    assert len(calls) > 3 * 8
    torch.testing.assert_close(ours, fit(make(ByHand)), rtol=0, atol=1e-5)


class Manually:
    """Optimise by hand the loss of the class that comes next."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Manual(Manually, Stock):
    pass


class ManualByHand(Manually, ByHand):
    pass


def test_manual_optimisation_with_one_torch_loss():
    callback = pruning(WEIGHTS)
    ours = fit(Manual(), callback)
    torch.testing.assert_close(ours, fit(ManualByHand()), rtol=0, atol=1e-6)
    assert not callback.trajectories.rows[-1].isnan().any()


def test_manual_optimisation_refusals():
    class TwoLosses(Manual):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            super().training_step(batch, batch_idx)

    with pytest.raises(MisconfigurationException, match="2 calls of torch loss functions"):
        fit(TwoLosses(), pruning(None))

    class ReturnsLosses(Manual):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            losses = -self(batch[0]).log_softmax(1).gather(1, batch[1][:, None]).squeeze(1)
            optimizer.zero_grad()
            self.manual_backward(losses.mean())
            optimizer.step()
            return {"loss": losses.mean(), "sample_loss": losses}

    fit(ReturnsLosses(), pruning(None))
    with pytest.raises(MisconfigurationException, match=r"on the graph.*manual optimisation"):
        fit(ReturnsLosses(), pruning(WEIGHTS))
    with pytest.raises(MisconfigurationException, match="manual optimisation, where the backward"):
        fit(ReturnsLosses(), pruning(WEIGHTS, signal=BatchLoss()))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_returns_none_leaves_its_samples_unobserved():
    class Skips(Stock):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 2 else loss

    callback = pruning(None, keep_history=True)
    fit(Skips(), callback)
    for row in callback.trajectories.rows:
        assert row.isnan().nonzero().flatten().tolist() == list(range(16, 24))


def test_returning_minus_one_ends_the_epoch_early():
    class Stops(Stock):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 3 else None

    callback = pruning(None, keep_history=True)
    fit(Stops(), callback)
    assert [int((~row.isnan()).sum()) for row in callback.trajectories.rows] == [24, 24, 24]


def test_sums_of_losses_are_weighted_and_recorded_with_their_coefficients():
    class Two(Stock):
        def training_step(self, batch, batch_idx):
            x, y, _ = batch
            logits = self(x)
            target = F.one_hot(y, 3).to(logits.dtype)
            self.log("mae", F.l1_loss(logits, target))  # a metric, not a loss
            return F.cross_entropy(logits, y) + 0.3 * F.mse_loss(logits, target)

    class TwoByHand(ByHand):
        def training_step(self, batch, batch_idx):
            x, y, index = batch
            logits = self(x)
            target = F.one_hot(y, 3).to(logits.dtype)
            losses = F.cross_entropy(logits, y, reduction="none")
            losses = losses + 0.3 * F.mse_loss(logits, target, reduction="none").mean(1)
            if self.trainer.current_epoch == 0:
                seen.append(losses.detach())
            return self.weigh(losses, index)

    seen = []
    callback = pruning(WEIGHTS, keep_history=True)
    ours = fit(Two(), callback)
    torch.testing.assert_close(ours, fit(TwoByHand()), rtol=0, atol=1e-6)
    torch.testing.assert_close(callback.trajectories.rows[0], torch.cat(seen))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_reductions_of_the_users_own(reduction):
    class Own(Stock):
        def training_step(self, batch, batch_idx):
            x, y, _ = batch
            losses = F.cross_entropy(self(x), y, reduction=reduction)
            return losses / len(x) if reduction == "sum" else losses.mean()

    ours = fit(Own(), pruning(WEIGHTS))
    torch.testing.assert_close(ours, fit(ByHand()), rtol=0, atol=1e-6)


def test_plain_loss_signal():
    class Smoothed(Stock):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.3)

    rows = []
    for plain in (False, True):
        callback = pruning(None, signal=SampleLoss(plain=plain), keep_history=True)
        weights = fit(Smoothed(), callback)
        rows.append((callback.trajectories.rows[0], weights))
    assert torch.equal(rows[0][1], rows[1][1]), "what is trained does not change"
    assert (rows[0][0] - rows[1][0]).abs().max() > 0.01


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_tap_leaves_nothing_behind_when_a_step_raises(error):
    class Raises(Stock):
        def training_step(self, batch, batch_idx):
            assert _get_current_function_mode_stack()
            raise error("stop")

    with pytest.raises((error, SystemExit)):
        fit(Raises(), pruning(WEIGHTS))
    assert not _get_current_function_mode_stack()


def test_a_nested_fit_is_not_tapped():
    inner = []

    class Outer(Stock):
        def training_step(self, batch, batch_idx):
            if batch_idx == 0 and self.trainer.current_epoch == 0:
                # Its step has a loss of 8 rows too, under our mode, but it is not this step's.
                nested = TinyModule()
                make_trainer(max_epochs=1).fit(nested, DataLoader(make_data(16), 8))
                inner.append(nested)
            return super().training_step(batch, batch_idx)

    callback = pruning(None, keep_history=True)
    fit(Outer(), callback)
    assert inner
    assert len(callback.trajectories.rows) == 3


class Gan(pl.LightningModule):
    """Several optimisers: the batch loss of each is not one per-sample loss."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Linear(6, 3)

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1) for _ in range(2)]


def test_several_optimisers_are_refused_with_the_way_out():
    callback = DynamicPruningCallback("loss", FixedWeights(None))
    trainer = make_trainer(callback)
    with pytest.raises(MisconfigurationException, match=r"sample_loss.*weights nothing"):
        trainer.fit(Gan(), DataLoader(make_data(), 8))


class Masked(Stock):
    """Elements that the step masks and reduces itself; ``how`` names the way."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def training_step(self, batch, batch_idx):
        x, y, index = batch
        return self.reduce(self.elements(x, y), self.mask(y, index))

    def elements(self, x, y):
        target = F.one_hot(y, 3).to(x.dtype)
        elements = F.binary_cross_entropy_with_logits(self(x), target, reduction="none")
        if self.how == "focal":
            elements = elements * (target - self(x).sigmoid()).abs() ** 2
        return elements

    def mask(self, y, index):
        return (torch.arange(3) <= index[:, None] % 3).float()

    def reduce(self, elements, mask):
        if self.how == "in place":
            elements *= mask
            return elements.mean()
        total = (elements * mask).sum()
        return total / mask.sum() if self.how == "masked mean" else total / mask.numel()


class MaskedByHand(Masked):
    def training_step(self, batch, batch_idx):
        x, y, index = batch
        elements = self.elements(x, y)
        if self.trainer.current_epoch > 0:
            elements = elements * WEIGHTS[index][:, None]
        return self.reduce(elements, self.mask(y, index))


@pytest.mark.parametrize("how", ["masked mean", "focal", "masked", "in place"])
def test_elements_that_the_step_reduces_itself(how):
    seen = []

    class Watch(Masked):
        def training_step(self, batch, batch_idx):
            if self.trainer.current_epoch == 0:
                with torch.no_grad():
                    for i in range(8):
                        one = super().training_step([part[i : i + 1] for part in batch], 0)
                        seen.append(one)
            return super().training_step(batch, batch_idx)

    # without the self-check, whose steps would be seen too
    callback = pruning(WEIGHTS, keep_history=True, self_check=False)
    if how == "focal":  # its factor has a gradient of its own, which no weight reaches
        fit(Watch(how), unweighted := pruning(None, keep_history=True, self_check=False))
        torch.testing.assert_close(unweighted.trajectories.rows[0], torch.stack(seen))
        with pytest.raises(MisconfigurationException, match="no gradient of their own"):
            fit(Watch(how), callback)
        return
    ours = fit(Watch(how), callback)
    torch.testing.assert_close(callback.trajectories.rows[0], torch.stack(seen))
    by_hand = fit(MaskedByHand(how))
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-6)


def test_factors_that_depend_on_the_elements_are_refused():
    class Focal(Stock):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return ((1 - torch.exp(-losses)) ** 2 * losses).mean()

    class Detached(Focal):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            penalty = 1e-4 * sum(p.square().sum() for p in self.parameters())
            return ((1 - torch.exp(-losses.detach())) ** 2 * losses).mean() + penalty

    with pytest.raises(MisconfigurationException, match=r"do not depend on.*sample_loss"):
        fit(Focal(), pruning(None))
    fit(Detached(), pruning(None))


CLIPPED = {
    "clamp": lambda losses: losses.clamp(max=1).mean(),
    "flooding": lambda losses: (losses - 1).abs().mean() + 1,
    "a margin": lambda losses: F.relu(losses - 1).mean(),
    "minimum": lambda losses: torch.minimum(losses, torch.ones(())).mean(),
    "where": lambda losses: torch.where(losses > 1, torch.ones(()), losses).mean(),
    "masked_fill": lambda losses: losses.masked_fill(losses > 1, 1.0).mean(),
}
NOT_CLIPPED = {
    "in place": lambda losses: losses.clamp_(max=1).mean(),
    "a mask": lambda losses: torch.where(losses > 1, torch.zeros(()), losses).mean(),
    "the smaller of two": lambda losses: torch.minimum(losses, 2 * losses).mean(),
    "the hardest half": lambda losses: losses.topk(len(losses) // 2).values.mean(),
}


class Reduced(Stock):
    def __init__(self, reduce):
        super().__init__()
        self.reduce = reduce

    def training_step(self, batch, batch_idx):
        return self.reduce(F.cross_entropy(self(batch[0]), batch[1], reduction="none"))


@pytest.mark.parametrize("how", CLIPPED)
def test_elements_that_are_clipped_afterwards_are_refused(how):
    with pytest.raises(MisconfigurationException, match=r"a loss is clipped.*sample_loss"):
        fit(Reduced(CLIPPED[how]), pruning(None))


@pytest.mark.parametrize("how", NOT_CLIPPED)
def test_elements_that_are_masked_or_chosen_from_train(how):
    fit(Reduced(NOT_CLIPPED[how]), pruning(None))


def test_clipped_elements_work_as_the_message_says():
    class Given(Stock):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none").clamp(max=1)
            return {"loss": losses.mean(), "sample_loss": losses}

    fit(Given(), callback := pruning(None, keep_history=True))
    assert callback.trajectories.rows[0].max() == 1


@pytest.mark.parametrize(
    "combine",
    [
        lambda a, b: (a + b - 10).abs() + 10,
        lambda a, b: a.log() + b.log(),
        lambda a, b: a * b,
    ],
    ids=["flooding", "logarithms", "a product"],
)
def test_losses_whose_factors_are_made_of_losses_are_refused(combine):
    class Two(Stock):
        def training_step(self, batch, batch_idx):
            x, y, _ = batch
            logits = self(x)
            return combine(F.cross_entropy(logits, y), F.mse_loss(logits, torch.ones(len(x), 3)))

    with pytest.raises(MisconfigurationException, match=r"clipped|do not depend on the losses"):
        fit(Two(), pruning(None))


def test_one_samples_logits_as_many_as_the_batch_has_samples_are_left_alone():
    class InALoop(Stock):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0]).repeat(1, 3)[:, :8]  # as many classes as samples
            each = [F.cross_entropy(*row) for row in zip(logits, batch[1], strict=True)]
            return {"loss": sum(each) / len(each), "sample_loss": torch.stack(each)}

    fit(InALoop(), callback := pruning(None, keep_history=True))
    assert not callback.trajectories.rows[0].isnan().any()

    class Averaged(InALoop):
        def training_step(self, batch, batch_idx):
            losses = super().training_step(batch, batch_idx)["sample_loss"]
            return {"loss": losses.mean(), "sample_loss": losses}

    fit(Averaged(), pruning(WEIGHTS))


SUMS = {
    "a sum": lambda a, b: (a.sum(), a),
    "a sum over a number": lambda a, b: (a.sum() / 7, a / 7),
    "a sum over the batch": lambda a, b: (a.sum() / len(a), a / 8),
    "two sums": lambda a, b: (a.sum() + b, a + 1),
    "a sum and a mean": lambda a, b: (a.sum() + b / len(a), a + 1 / 8),
}


class OfTwo(Stock):
    """A step of elements, and of a loss that is 1 for each sample as a sum."""

    def __init__(self, how):
        super().__init__()
        self.reduce = SUMS[how]

    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        logits = self(x)
        ones = F.mse_loss(logits[:, 0], logits[:, 0].detach() + 1, reduction="sum")
        return self.reduce(F.cross_entropy(logits, y, reduction="none"), ones)[0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("how", SUMS)
@pytest.mark.parametrize("saved_at", [None, 7])
def test_a_sums_losses_are_as_large_in_a_short_batch(how, saved_at, tmp_path):
    data = TensorDataset(*make_data(67).tensors, torch.arange(67))  # the last of 9 batches has 3

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == saved_at and trainer.ckpt_path is None:
                trainer.save_checkpoint(tmp_path / "it.ckpt")

    module, callback = OfTwo(how), pruning(None, keep_history=True)
    make_trainer(callback, Save(), max_epochs=1).fit(module, DataLoader(data, 8))
    x, y, _ = data.tensors
    losses = F.cross_entropy(module(x), y, reduction="none").detach()
    expected = SUMS[how](losses, torch.tensor(0.0))[1] * 8
    torch.testing.assert_close(callback.trajectories.rows[0], expected)
    if saved_at is not None:
        resumed = pruning(None, keep_history=True)
        trainer = make_trainer(resumed, max_epochs=1)
        trainer.fit(OfTwo(how), DataLoader(data, 8), ckpt_path=tmp_path / "it.ckpt")
        rows, other = resumed.trajectories.rows[0], callback.trajectories.rows[0]
        torch.testing.assert_close(rows, other, rtol=0, atol=0)


def test_elements_in_manual_optimisation_are_warned_of():
    class Elements(Stock):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1], reduction="none").mean()

    class ManualElements(Manually, Elements):
        pass

    with pytest.warns(UserWarning, match=r"plain mean of a reduction='none' loss"):
        fit(ManualElements(), pruning(None))


class Tokens(Stock):
    """A token classifier that flattens as language models do; some tokens are padding."""

    order = "samples first"

    def tokens(self, batch):
        x, y, index = batch
        shifts = torch.arange(5)
        labels = (y[:, None] + shifts) % 3
        labels = labels.masked_fill(shifts > index[:, None] % 5, -100)
        return self.net(x[:, None] + 0.3 * shifts[:, None]), labels

    def training_step(self, batch, batch_idx):
        logits, labels = self.tokens(batch)
        if self.order == "time first":
            logits, labels = logits.transpose(0, 1), labels.t()
        return self.loss(logits.reshape(-1, 3), labels.reshape(-1))


class TokensByHand(Tokens):
    def training_step(self, batch, batch_idx):
        logits, labels = self.tokens(batch)
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        if self.trainer.current_epoch == 0:
            seen.append(losses.detach().sum(1) / (labels != -100).sum(1))
        weights = WEIGHTS[batch[2]] if self.trainer.current_epoch else torch.ones(8)
        return (losses * weights[:, None]).sum() / (labels != -100).sum()


seen: list[torch.Tensor] = []


# torch 2.6 raises a TypeError where a compiled step gives back views of fixed shapes.
gives_back_views = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="_functionalize_apply_view_metas in torch 2.6"
)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=gives_back_views)])
def test_token_losses_are_recorded_and_weighted_by_sample(compiled):
    seen.clear()
    by_hand = fit(TokensByHand())
    torch._dynamo.reset()
    module = torch.compile(Tokens(), backend="aot_eager") if compiled else Tokens()
    reference = DataLoader(TensorDataset(*make_data(64).tensors, torch.arange(64)), 8)
    callback = pruning(WEIGHTS, keep_history=True, reference=reference)
    ours = fit(module, callback)
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-5)
    torch.testing.assert_close(callback.trajectories.rows[0], torch.cat(seen))


def test_the_reference_of_a_token_loss_is_kept_by_sample():
    reference = DataLoader(TensorDataset(*make_data(24).tensors, torch.arange(24)), 8)
    callback = DynamicPruningCallback(ReferenceRank(), reference=reference, keep_history=True)
    fit(Tokens(), callback)
    rows = callback.trajectories.view(None).reference_rows
    assert {len(row) for row in rows} == {24}


def test_token_losses_in_another_order_are_refused():
    module = Tokens()
    module.order = "time first"
    with pytest.raises(MisconfigurationException, match="flattens sample after sample"):
        fit(module, pruning(None))
    reference = DataLoader(TensorDataset(*make_data(64).tensors, torch.arange(64)), 8)
    callback = pruning(None, signal=CalibratedLoss(), reference=reference)
    with pytest.raises(MisconfigurationException, match="0 classification losses"):
        fit(Tokens(), callback)


@register_loss
def focal(logits, labels, reduction="mean"):
    pt = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    losses = -((1 - pt) ** 2) * pt.log()
    return losses.mean() if reduction == "mean" else losses


def test_a_registered_loss_is_trained_as_if_it_was_torchs():
    class Registered(Stock):
        def training_step(self, batch, batch_idx):
            return focal(self(batch[0]), batch[1])

    class FocalByHand(ByHand):
        def training_step(self, batch, batch_idx):
            return self.weigh(focal(self(batch[0]), batch[1], reduction="none"), batch[2])

    ours = fit(Registered(), pruning(WEIGHTS))
    torch.testing.assert_close(ours, fit(FocalByHand()), rtol=0, atol=1e-6)
