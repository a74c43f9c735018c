"""The recipe: schedules against their formulas, and the classifier in a real Trainer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback
from lightning_alignprune.models import Classifier, OptimizerConfig, ScheduleConfig
from tests.conftest import make_data, make_trainer
from tests.seeds import enough, successes


def loader(seed: int = 0, noise: float = 0.0) -> DataLoader:
    return DataLoader(make_data(64, seed, noise), batch_size=16)


def net() -> nn.Module:
    return nn.Linear(6, 3)


def test_it_trains_and_logs_losses_and_accuracies() -> None:
    torch.manual_seed(0)
    model = Classifier(net(), 3, label_smoothing=0.1, optimizer=OptimizerConfig(lr=0.5))
    trainer = make_trainer(max_epochs=6)
    trainer.fit(model, loader(), loader(1))
    logged = trainer.callback_metrics
    assert {"train_loss", "val_loss", "val_acc"} <= set(logged)
    tested = trainer.test(model, loader(2), verbose=False)[0]
    x, y = make_data(64, 2, 0.0).tensors
    with torch.no_grad():
        logits = model.eval()(x)
    assert tested["test_acc"] == pytest.approx((logits.argmax(1) == y).float().mean().item())
    assert tested["test_loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


@pytest.mark.trained
def test_it_learns_separable_classes() -> None:
    def is_learned(seed: int) -> bool:
        model = Classifier(net(), 3, label_smoothing=0.1, optimizer=OptimizerConfig(lr=0.5))
        trainer = make_trainer(max_epochs=6)
        trainer.fit(model, loader(2 * seed), loader(2 * seed + 1))
        return bool(trainer.callback_metrics["val_acc"] > 0.6)

    # Chance is 0.33; 16 seeds gave 0.81 to 0.97, 0.89 on average with a spread of 0.05: 0.6 is
    # beyond five spreads, and a rate of 0.99 far on the safe side.
    assert successes(is_learned) >= enough(0.99)


def test_smoothing_is_in_the_training_loss_only() -> None:
    model = Classifier(net(), 3, label_smoothing=0.3)
    model.log = lambda *args, **kwargs: None
    x, y = make_data(8).tensors
    expected = F.cross_entropy(model(x), y, label_smoothing=0.3)
    assert torch.equal(model.training_step((x, y), 0), expected)


def test_one_cycle_follows_its_formula_over_the_whole_run() -> None:
    optimizer = OptimizerConfig(lr=5.2).make(net().parameters())
    total = 200
    made = ScheduleConfig().make(optimizer, total)
    assert made["interval"] == "step"
    rates, momenta = [], []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if len(rates) < total:
            made["scheduler"].step()
    up, peak, start = 0.3 * total - 1, 5.2, 5.2 / 25
    for k, rate in enumerate(rates):
        if k <= up:
            expected = peak + (start - peak) / 2 * (1 + math.cos(math.pi * k / up))
        else:
            q = (k - up) / (total - 1 - up)
            expected = start / 1e4 + (peak - start / 1e4) / 2 * (1 + math.cos(math.pi * q))
        assert rate == pytest.approx(expected, rel=1e-6)
    assert (momenta[0], min(momenta)) == (0.95, pytest.approx(0.85))


def test_one_cycle_is_sized_by_the_trainer_and_ends_at_its_end() -> None:
    model = Classifier(net(), 3, optimizer=OptimizerConfig(lr=0.5))
    trainer = make_trainer(max_epochs=3, accumulate_grad_batches=2, num_sanity_val_steps=0)
    trainer.fit(model, loader())
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.total_steps == 6
    assert scheduler.last_epoch == 6


def test_drops_move_with_the_epochs_and_constant_has_no_schedule() -> None:
    optimizer = OptimizerConfig(lr=0.02).make(net().parameters())
    made = ScheduleConfig("drops", drop_epochs=[2]).make(optimizer, 100)
    assert made["interval"] == "epoch"
    optimizer.step()
    for _ in range(2):
        made["scheduler"].step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.002)
    assert ScheduleConfig("constant").make(optimizer, 100) is None
    model = Classifier(net(), 3, schedule=ScheduleConfig("constant"))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, loader())
    assert not trainer.lr_scheduler_configs


def test_cosine_falls_to_zero() -> None:
    optimizer = OptimizerConfig("adam", lr=0.1).make(net().parameters())
    made = ScheduleConfig("cosine").make(optimizer, 10)
    for _ in range(10):
        optimizer.step()
        made["scheduler"].step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_every_optimizer_steps_under_one_cycle(name: str) -> None:
    model = Classifier(net(), 3, optimizer=OptimizerConfig(name, lr=0.01))
    before = model.network.weight.detach().clone()
    make_trainer(max_epochs=1).fit(model, loader())
    assert not torch.equal(before, model.network.weight)


def test_lars_scales_the_step_by_norms_not_by_the_gradient() -> None:
    # Doubling the gradient leaves the step of a matrix as it is when there is no weight decay.
    steps = []
    for factor in (1.0, 2.0):
        weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        config = OptimizerConfig("lars", lr=1.0, weight_decay=0.0, momentum=0.0)
        optimizer = config.make([weight])
        weight.grad = factor * torch.tensor([[0.6, 0.8]])
        optimizer.step()
        steps.append(weight.detach().clone())
    torch.testing.assert_close(steps[0], torch.tensor([[2.997, 3.996]]))
    torch.testing.assert_close(steps[0], steps[1])


def test_it_works_under_the_pruning_callback() -> None:
    model = Classifier(net(), 3, label_smoothing=0.1, optimizer=OptimizerConfig(lr=0.1))
    callback = DynamicPruningCallback(score="loss")
    trainer = make_trainer(callback, max_epochs=4)
    trainer.fit(model, DataLoader(make_data(64, 0, 0.3), batch_size=16, shuffle=True), loader(1))
    assert trainer.global_step < 16


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Classifier("mlp3", 1), "Classifier: expected num_classes"),
        (lambda: Classifier("mlp3", 3, label_smoothing=1.0), r"label_smoothing in \[0, 1\)"),
        (lambda: Classifier("mlp4", 3), "expected network to be one of"),
        (lambda: OptimizerConfig("rmsprop"), "expected name to be one of 'sgd'"),
        (lambda: OptimizerConfig(lr=0.0), r"expected lr in \(0, inf\)"),
        (lambda: OptimizerConfig(momentum=1.0), "expected momentum"),
        (lambda: ScheduleConfig("linear"), "expected name to be one of 'one_cycle'"),
        (lambda: ScheduleConfig(warmup_fraction=0.0), "expected warmup_fraction"),
        (lambda: ScheduleConfig(final_division=0.5), "expected final_division"),
        (lambda: ScheduleConfig("drops"), "expected drop_epochs for 'drops' and only for it"),
        (lambda: ScheduleConfig(drop_epochs=[3]), "expected drop_epochs for 'drops' and only"),
    ],
)
def test_bad_values_fail_in_the_constructor(make, text) -> None:
    with pytest.raises(ValueError, match=text):
        make()
