"""A reference measured with averaged weights: what it is of, and that nothing else changes."""

import copy
from functools import partial
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, callbacks
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicAlignment, DynamicPruningCallback, InfoBatch
from lightning_alignprune.fit.preflight import check_averages
from lightning_alignprune.reference import PseudoClean
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import fit as ranked_fit
from tests.integration.ranked_fits import make_callback as ranked_callback
from tests.integration.test_resume import SaveEverywhere

REFERENCE = make_data(30, seed=2, noise=0.0)
N, BATCH = 64, 8


def make_callback(weights="ema", **kwargs):
    settings = {"reference": REFERENCE, "keep_history": True, "seed": 3}
    score = DynamicAlignment(window=4, min_observations=2)
    return DynamicPruningCallback(
        score, InfoBatch(0.6), reference_weights=weights, **(settings | kwargs)
    )


def fit(callback, *others, make=TinyModule, ckpt_path=None, epochs=5, **kwargs):
    """Fit, and return the module."""
    torch.manual_seed(0)
    module = make(batch_norm=True)
    trainer = make_trainer(callback, *others, max_epochs=epochs, **kwargs)
    loader = DataLoader(make_data(N), BATCH, shuffle=True)
    val_loader = DataLoader(make_data(16, seed=1), 8)
    trainer.fit(module, loader, val_loader, ckpt_path=ckpt_path)
    return module


class Steps(Callback):
    """Keep the weights after every optimizer step, and how many there were at each epoch's end."""

    def __init__(self):
        self.weights, self.ends = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step > len(self.weights):
            self.weights.append(weights_of(pl_module))

    def on_train_epoch_end(self, trainer, pl_module):
        self.ends.append(len(self.weights))


def by_hand(steps, horizon, batch_norm=True):
    """The reference loss of every epoch, with the average written as a sum over all steps."""
    losses = []
    for end in steps.ends:
        shares = torch.tensor([(1 - 1 / horizon) ** (end - 1 - i) for i in range(end)])
        shares = shares.double() / shares.double().sum()
        average = copy.deepcopy(steps.weights[end - 1])
        for name, newest in average.items():
            if newest.is_floating_point():
                every = torch.stack([w[name].double() for w in steps.weights[:end]])
                average[name] = torch.tensordot(shares, every, 1).float()
        module = TinyModule(batch_norm=batch_norm)
        module.load_state_dict(average)
        x, y = REFERENCE.tensors
        losses.append(F.cross_entropy(module.eval()(x), y).detach())
    return torch.stack(losses)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_reference_loss_is_that_of_the_averaged_weights(accumulate):
    steps, callback = Steps(), make_callback()
    fit(callback, steps, accumulate_grad_batches=accumulate)
    horizon = -(-(N // BATCH) // accumulate)
    reference = callback.trajectories.reference
    torch.testing.assert_close(reference, by_hand(steps, horizon))
    plain = make_callback("current")
    fit(plain, accumulate_grad_batches=accumulate)
    assert not torch.allclose(reference, plain.trajectories.reference)


def test_training_is_the_same_bit_for_bit():
    # Without pruning, as the selections rest on the reference.
    make = partial(TinyModule, dropout=0.2)
    assert_identical(*(weights_of(fit(watching(w), make=make)) for w in ("current", "ema")))


def watching(weights):
    return DynamicPruningCallback(
        DynamicAlignment(window=4, min_observations=2),
        InfoBatch(0.0),
        reference=REFERENCE,
        reference_weights=weights,
    )


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
def test_a_run_resumed_anywhere_goes_on_alike(tmp_path):
    save, whole = SaveEverywhere(tmp_path), make_callback()
    module = fit(whole, save, epochs=4)
    for path in save.paths[3:-1:6]:
        resumed = make_callback()
        again = fit(resumed, ckpt_path=path, epochs=4)
        assert_identical(weights_of(again), weights_of(module))
        assert torch.equal(resumed.trajectories.reference, whole.trajectories.reference), path


def test_the_checkpoint_holds_one_copy_of_what_is_trained(tmp_path):
    callback = make_callback()
    module = fit(callback)
    averages = callback.state_dict()["reference"]["average"]["averages"]
    floats = {k: v for k, v in weights_of(module).items() if v.is_floating_point()}
    assert {k: v.shape for k, v in averages.items()} == {k: v.shape for k, v in floats.items()}
    assert make_callback("current").state_dict() == {}


def test_both_ranks_measure_with_the_same_average(tmp_path):
    make = partial(ranked_callback, reference_weights="ema")
    two = ranked_fit(tmp_path, 2, callback=make, batch_norm=True)
    assert torch.equal(two[0]["reference"], two[1]["reference"])


class Thawing(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist")
def test_layers_that_begin_to_train_later_are_averaged_from_then_on():
    steps, callback = Steps(), make_callback()
    fit(callback, Thawing(), steps)
    torch.testing.assert_close(callback.trajectories.reference, by_hand(steps, N // BATCH))
    assert "net.0.weight" in callback.state_dict()["reference"]["average"]["averages"]


def test_half_precision_weights_are_averaged_in_float32():
    callback = make_callback()
    module = fit(callback, precision="bf16-true")
    averages = callback.state_dict()["reference"]["average"]["averages"]
    assert {value.dtype for value in averages.values()} == {torch.float32}
    assert module.net[0].weight.dtype == torch.bfloat16


class Fails(TinyModule):
    inside: ClassVar[list[dict[str, torch.Tensor]]] = []

    def training_step(self, batch, batch_idx):
        if not torch.is_grad_enabled() and self.trainer.current_epoch == 1:
            Fails.inside.append(weights_of(self))  # an attribute would be put back
            raise ZeroDivisionError
        return super().training_step(batch, batch_idx)


def test_a_step_that_fails_in_the_pass_leaves_the_modules_own_weights():
    module, steps = Fails(batch_norm=True), Steps()
    with pytest.raises(ZeroDivisionError):
        fit(make_callback(), steps, make=lambda **_: module)
    assert_identical(weights_of(module), steps.weights[-1])
    assert not torch.equal(Fails.inside[0]["net.0.weight"], steps.weights[-1]["net.0.weight"])


needs_averaging = pytest.mark.skipif(
    not hasattr(callbacks, "EMAWeightAveraging"), reason="since Lightning 2.6"
)


@needs_averaging
def test_the_average_of_lightnings_callback_is_taken_where_there_is_one():
    steps, callback = Steps(), make_callback()
    # Copies the first step's weights into its average, as a horizon without an end would.
    averaging = callbacks.WeightAveraging(avg_fn=lambda old, new, n: new * 0.0 + old)
    fit(callback, steps, averaging)
    module = TinyModule(batch_norm=True)
    module.load_state_dict(steps.weights[0])
    x, y = REFERENCE.tensors
    expected = F.cross_entropy(module.eval()(x), y)
    torch.testing.assert_close(callback.trajectories.reference, expected.expand(5).detach())
    assert callback.state_dict()["reference"]["average"]["averages"] == {}


@needs_averaging
def test_an_average_that_has_not_begun_is_not_taken():
    late, plain = make_callback(), make_callback("current")
    fit(late, callbacks.EMAWeightAveraging(update_starting_at_step=10_000))
    fit(plain)
    assert torch.equal(late.trajectories.reference, plain.trajectories.reference)


@pytest.mark.parametrize(
    ("reference", "score", "got"),
    [
        ("validation", "DynamicAlignment", "your own pass"),
        (None, "DynamicAlignment", "your own pass"),
        ("pseudo", "DynamicAlignment", "made of the training losses"),
        (PseudoClean(), "DynamicAlignment", "made of the training losses"),
        (None, "loss", "none, and a score that needs none"),
    ],
)
def test_what_is_no_set_of_its_own_is_refused(reference, score, got):
    callback = DynamicPruningCallback(score, reference=reference, reference_weights="ema")
    with pytest.raises(MisconfigurationException, match=f'reference_weights="ema", got .*{got}'):
        fit(callback)


def test_sharded_weights_are_refused():
    trainer = make_trainer(strategy=ModelParallelStrategy(data_parallel_size=1), devices=1)
    with pytest.raises(MisconfigurationException, match="ModelParallelStrategy, whose ranks hold"):
        check_averages(trainer)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="reference_weights"):
        DynamicPruningCallback(reference_weights="swa")
