"""Before anything is trained, what is recorded is compared with what is trained."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_alignprune import BatchLoss, DynamicPruningCallback, InfoBatch
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.forked import run_forked, run_ranks

B = 16
REFUSED = MisconfigurationException


def fit(module, *, loader=None, epochs=1, callback=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    callback = callback or DynamicPruningCallback("loss", keep_history=True, **kwargs)
    loader = DataLoader(make_data(64), B) if loader is None else loader
    make_trainer(callback, max_epochs=epochs).fit(module, loader)
    return callback


def focal(logits, y):
    log_p = logits.log_softmax(1).gather(1, y[:, None]).squeeze(1)
    return -((1 - log_p.exp()) ** 2) * log_p


class Step(TinyModule):
    """A module with a decoder and parts to regularise, and a step made of ``loss_of``."""

    def __init__(self, loss_of, **kwargs):
        super().__init__(**kwargs)
        self.loss_of = loss_of
        self.decoder = nn.Linear(3, 6)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.loss_of(self, *batch)


def vae(m, x, y):
    mean = m.net(x)
    z = mean + torch.randn_like(mean)
    kl = 0.5 * (mean**2).sum(1).mean()
    return F.mse_loss(m.decoder(z), x) + kl


def vicreg(m, x, y):
    z = m.net(x)
    variance = F.relu(1 - z.std(0)).mean()
    return F.mse_loss(z, m.net(x.flip(1))) + variance


def dice_and_cross_entropy(m, x, y):
    logits = m.net(x)
    p, t = logits.softmax(1), F.one_hot(y, 3)
    dice = 1 - 2 * (p * t).sum() / (p.sum() + t.sum())
    return dice + F.cross_entropy(logits, y)


def added_in_place(m, x, y):
    logits = m.net(x)
    loss = F.cross_entropy(logits, y)
    loss += 0.1 * logits.square().mean()
    return loss


def seen_in_place(m, x, y):
    loss = F.cross_entropy(m.net(x), y)
    loss += 0.1 * F.mse_loss(m.decoder(m.net(x)), x)
    loss += 1e-3 * m.net[0].weight.square().sum()
    return loss


HALF_SEEN = {
    "a focal loss beside a small term": lambda m, x, y: (
        focal(m.net(x), y).mean() + 1e-3 * F.mse_loss(m.decoder(m.net(x)), x)
    ),
    "a VAE": vae,
    "VICReg": vicreg,
    "Dice and cross-entropy": dice_and_cross_entropy,
    "a term added in place": added_in_place,
    "a factor": lambda m, x, y: F.cross_entropy(m.net(x), y) * (1 + m.net(x).square().mean()),
    "a small term": lambda m, x, y: F.cross_entropy(m.net(x), y) + m.net(x).square().mean() / 30,
    "a term of other rows": lambda m, x, y: (
        F.cross_entropy(m.net(x), y) + F.mse_loss(m.net(x.repeat(2, 1)), torch.ones(2 * len(x), 3))
    ),
}
SEEN = {
    "L1": lambda m, x, y: (
        F.cross_entropy(m.net(x), y) + 0.1 * sum(p.abs().sum() for p in m.parameters())
    ),
    "orthogonal weights": lambda m, x, y: (
        F.cross_entropy(m.net(x), y)
        + (m.net[0].weight.T @ m.net[0].weight - torch.eye(6)).square().sum()
    ),
    "a learned scale": lambda m, x, y: (
        (-m.log_scale).exp() * F.cross_entropy(m.net(x), y) + m.log_scale
    ),
    "a divisor of the batch": lambda m, x, y: (
        F.cross_entropy(m.net(x), y, reduction="sum") / (x > 0).sum() + 1e-3 * m.log_scale
    ),
    "the root of a mean": lambda m, x, y: F.mse_loss(m.decoder(m.net(x)), x).sqrt(),
    "two terms in place": seen_in_place,
    "two terms": lambda m, x, y: (
        0.3 * F.cross_entropy(m.net(x), y) + 5 * F.mse_loss(m.decoder(m.net(x)), x)
    ),
    "a detached factor": lambda m, x, y: (
        focal(m.net(x), y).detach() * F.cross_entropy(m.net(x), y, reduction="none")
    ).mean(),
    "two passes with dropout": lambda m, x, y: (
        F.cross_entropy(m.net(x), y)
        + F.kl_div(m.net(x).log_softmax(1), m.net(x).softmax(1), reduction="batchmean")
    ),
}


@pytest.mark.parametrize("loss", HALF_SEEN)
def test_a_loss_seen_in_part_is_refused_before_anything_is_trained(loss):
    module = Step(HALF_SEEN[loss])
    before = weights_of(module)
    with pytest.raises(REFUSED, match="add up to the loss that training_step returns"):
        fit(module)
    assert_identical(weights_of(module), before)


@pytest.mark.parametrize("loss", SEEN)
def test_a_loss_seen_as_a_whole_trains(loss):
    module = Step(SEEN[loss], batch_norm=True, dropout=0.3)
    callback = fit(module, epochs=3)
    assert not callback.trajectories.rows[0].isnan().any()


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_few_samples_are_compared_with_those_of_the_next_step(batch_size):
    loader = DataLoader(make_data(12), batch_size)
    fit(Step(SEEN["L1"]), loader=loader)
    with pytest.raises(REFUSED, match="add up"):
        fit(Step(HALF_SEEN["Dice and cross-entropy"]), loader=loader)


def test_a_half_seen_loss_trains_as_its_message_says():
    half_seen = HALF_SEEN["a focal loss beside a small term"]

    class WithSampleLoss(Step):
        def training_step(self, batch, batch_idx):
            x, y = batch
            losses = focal(self.net(x), y) + 1e-3 * (self.decoder(self.net(x)) - x).square().mean(1)
            return {"loss": losses.mean(), "sample_loss": losses}

    with pytest.raises(REFUSED, match=r"sample_loss.*BatchLoss\(\).*self_check=False"):
        fit(Step(half_seen))
    fit(WithSampleLoss(half_seen), epochs=3)
    fit(Step(half_seen), epochs=3, signal=BatchLoss())
    fit(Step(half_seen), epochs=3, self_check=False)


# ---- rows ---------------------------------------------------------------------------------


class TimeFirst(TinyModule):
    """A sequence model whose losses have a row per step in time."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 8), nn.Linear(8, 3)

    def training_step(self, batch, batch_idx):
        x, y = (part.transpose(0, 1) for part in batch)
        return F.mse_loss(self.out(self.rnn(x)[0]), y)


def orthogonality(m, x, y):
    weight = m.net[0].weight  # B wide
    return F.cross_entropy(m.net(x), y) + F.mse_loss(weight @ weight.T, torch.eye(B))


def anchors(m, x, y):
    boxes = m.decoder(m.net(x))[:1].reshape(-1, 1).repeat(3, 1)[:B]
    return F.l1_loss(boxes, torch.linspace(0, 1, B)[:, None])


def test_steps_in_time_are_not_taken_for_samples():
    x = torch.randn(64, B, 3) * torch.linspace(0.1, 3, 64)[:, None, None]
    data = torch.utils.data.TensorDataset(x, 2 * x)
    with pytest.raises(REFUSED, match="do not change places with the samples"):
        fit(TimeFirst(), loader=DataLoader(data, B))


@pytest.mark.parametrize("loss_of", [orthogonality, anchors])
def test_rows_of_something_else_are_not_taken_for_samples(loss_of):
    with pytest.raises(REFUSED, match=r"row i of a loss with 16 rows to be sample i's alone"):
        fit(Step(loss_of))


def with_the_batch_as_negatives(m, x, y):
    return F.cross_entropy(m.net(x) @ m.net(x.flip(1)).T, torch.arange(len(x)))


def test_losses_that_depend_on_the_other_samples_are_refused_unless_they_are_given_as_such():
    class Given(Step):
        def training_step(self, batch, batch_idx):
            x, _ = batch
            scores = self.net(x) @ self.net(x.flip(1)).T
            losses = F.cross_entropy(scores, torch.arange(len(x)), reduction="none")
            return {"loss": losses.mean(), "sample_loss": losses}

    with pytest.raises(REFUSED, match=r"change when other samples are in the batch.*sample_loss"):
        fit(Step(with_the_batch_as_negatives))
    fit(Given(with_the_batch_as_negatives))


def padded(items):
    lengths = [1 + int(index) % 9 for *_, index in items]
    x = torch.zeros(len(items), max(lengths), 6)
    for row, (features, _, _), length in zip(x, items, lengths, strict=True):
        row[:length] = features
    return x, torch.stack([label for _, label, _ in items])


def test_padding_without_a_mask_is_no_other_sample():
    module = Step(lambda m, x, y: F.cross_entropy(m.net(x.mean(1)), y))
    fit(module, loader=DataLoader(Indexed(), B, collate_fn=padded))


def test_a_step_for_whole_batches_only_is_looked_at_with_whole_batches():
    step = lambda m, x, y: F.cross_entropy(m.net(x.view(B, 6)), y)  # noqa: E731
    fit(Step(step))
    with pytest.raises(REFUSED, match="keeps the order"):
        fit(Step(step), loader=DataLoader(make_data(64), B, collate_fn=by_first_feature))


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("batch_size", [4, 5, 8, 12, 16])
def test_targets_that_broadcast_over_the_batch_are_refused(batch_size):
    def broadcast(m, x, y):
        return F.mse_loss(m.net(x)[:, :1], x[:, 0])

    with pytest.raises(REFUSED, match="row i of a loss"):
        fit(Step(broadcast), loader=DataLoader(make_data(64), batch_size))


def test_a_penalty_with_as_many_rows_as_the_last_batch_has_samples_is_not_theirs():
    def orthogonal_classes(m, x, y):
        weight = m.net[-1].weight
        return F.cross_entropy(m.net(x), y) + F.mse_loss(weight @ weight.T, torch.eye(3))

    class Frozen(Step):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    data = make_data(2 * B + 3)
    module = Frozen(orthogonal_classes)
    callback = fit(module, loader=DataLoader(data, B))
    x, y = data.tensors
    expected = F.cross_entropy(module.net(x), y, reduction="none")
    torch.testing.assert_close(callback.trajectories.rows[0], expected.detach())


def test_the_term_with_wrong_rows_is_named():
    with pytest.raises(REFUSED, match=r"losses of mse_loss \(call 2\) that"):
        fit(Step(orthogonality))


def test_a_users_own_losses_in_another_order_are_refused():
    class Sorted(TinyModule):
        def training_step(self, batch, batch_idx):
            x, y = batch
            losses = F.cross_entropy(self.net(x), y, reduction="none")
            return {"loss": losses.mean(), "sample_loss": losses.sort().values}

    with pytest.raises(REFUSED, match="losses of sample_loss that"):
        fit(Sorted())


def test_a_network_that_gives_losses_in_train_mode_only_is_looked_at_there():
    class Detector(TinyModule):
        def training_step(self, batch, batch_idx):
            assert self.net.training
            return F.l1_loss(
                self.net(batch[0])[:1].repeat(B, 1), torch.arange(3 * B).view(B, 3) / B
            )

    with pytest.raises(REFUSED, match="row i of a loss"):
        fit(Detector())


# ---- order --------------------------------------------------------------------------------


def by_first_feature(items):
    return default_collate(sorted(items, key=lambda item: float(item[0][0])))


def backwards(items):
    return default_collate(items[::-1])


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("collate", [by_first_feature, backwards])
def test_a_collate_function_that_changes_the_order_is_refused(collate, num_workers):
    loader = DataLoader(make_data(64), B, collate_fn=collate, num_workers=num_workers)
    with pytest.raises(REFUSED, match="expected a collate_fn that keeps the order of its items"):
        fit(TinyModule(), loader=loader)


def fit_a_rank(folder):
    torch.set_num_threads(1)
    trainer = make_trainer(DynamicPruningCallback("loss"), max_epochs=2, devices=2, strategy="ddp")
    rank = trainer.global_rank
    collate = backwards if rank == 1 else None
    try:
        trainer.fit(TinyModule(), DataLoader(make_data(64), B, collate_fn=collate))
    except MisconfigurationException as error:
        (folder / f"rank{rank}").write_text(str(error))


def test_what_one_rank_finds_stops_all(tmp_path):
    run_forked(partial(run_ranks, partial(fit_a_rank, tmp_path), 2), tmp_path / "log.txt")
    assert "on another rank" in (tmp_path / "rank0").read_text()
    assert "keeps the order" in (tmp_path / "rank1").read_text()


def test_the_order_is_seen_where_all_losses_are_alike():
    module = TinyModule()
    nn.init.zeros_(module.net[-1].weight)
    nn.init.zeros_(module.net[-1].bias)
    with pytest.raises(REFUSED, match="keeps the order"):
        fit(module, loader=DataLoader(make_data(64), B, collate_fn=by_first_feature))
    fit(module)


def test_sorting_in_the_step_is_no_fault():
    class Packed(TinyModule):
        def training_step(self, batch, batch_idx):
            x, y = batch
            order = x[:, 0].argsort()
            return F.cross_entropy(self.net(x[order])[order.argsort()], y)

    fit(Packed())


def test_a_collate_function_that_takes_keys_out_of_its_items_is_run_on_copies():
    x, y = make_data(64).tensors
    items = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]

    class Fresh(Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, index):
            return dict(items[index])

    def popping(batch):
        labels = torch.stack([item.pop("y") for item in batch])
        return default_collate([item["x"] for item in batch]), labels

    callback = fit(TinyModule(), loader=DataLoader(Fresh(), B, collate_fn=popping))
    assert not callback.trajectories.rows[0].isnan().any()


# ---- what cannot be told ------------------------------------------------------------------


def mixup(x, y):
    weight = torch.rand(()).item()
    return weight * x + (1 - weight) * x[torch.randperm(len(x))], y


class Mixing(TinyModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(mixup(*batch), batch_idx)


class OwnMixup:
    def __init__(self):
        self.draws = np.random.default_rng(0)

    def __call__(self, items):
        x, y = default_collate(items)
        return x + x[self.draws.permutation(len(x))], y


@pytest.mark.parametrize("where", ["step", "collate", "numpy in the step", "collate's own draws"])
def test_random_mixing_trains_and_is_mentioned_in_debug_only(where, caplog, recwarn):
    module, collate = TinyModule(), None
    if where == "step":
        module = Mixing()
    elif where == "collate":
        collate = lambda items: mixup(*default_collate(items))  # noqa: E731
    elif where == "collate's own draws":
        collate = OwnMixup()
    else:
        module = Step(lambda m, x, y: F.cross_entropy(m.net(x[np.random.permutation(len(x))]), y))
    with caplog.at_level(logging.DEBUG, logger="lightning.pytorch"):
        fit(module, loader=DataLoader(make_data(64), B, collate_fn=collate))
    told = [record for record in caplog.records if "the self-check cannot tell" in record.message]
    assert told
    assert all(record.levelno == logging.DEBUG for record in told)
    assert not [w for w in recwarn if "self-check" in str(w.message)]


@pytest.mark.parametrize("batch_size", [4, 5, 8, 16])
def test_a_step_that_shuffles_its_rows_at_random_is_refused(batch_size):
    def shuffled(m, x, y):
        order = torch.randperm(len(x))
        return F.cross_entropy(m.net(x[order]), y[order])

    with pytest.raises(REFUSED, match="row i of a loss"):
        fit(Step(shuffled), loader=DataLoader(make_data(64), batch_size))


def test_one_train_loader_in_a_container_is_looked_at_too():
    class Contained(TinyModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["train"], batch_idx)

    loader = DataLoader(make_data(64), B, collate_fn=by_first_feature)
    with pytest.raises(REFUSED, match="keeps the order"):
        fit(Contained(), loader={"train": loader})


def test_a_compiled_step_is_looked_at_as_it_was_written():
    module = TinyModule()
    module.compile(backend="eager")
    with pytest.raises(REFUSED, match="keeps the order"):
        fit(module, loader=DataLoader(make_data(64), B, collate_fn=by_first_feature))
    fit(module)


def test_a_compiled_step_with_a_loss_seen_in_part_is_refused():
    penalised, half_seen = Step(SEEN["L1"]), Step(HALF_SEEN["Dice and cross-entropy"])
    for module in (penalised, half_seen):
        module.compile(backend="eager")
    fit(penalised)
    with pytest.raises(REFUSED, match="add up"):
        fit(half_seen)


# ---- no trace, little cost ----------------------------------------------------------------


class Dice(Dataset):
    """A data set and a collate function with generators of their own."""

    def __init__(self):
        self.data = make_data(64)
        self.draws = np.random.default_rng(0)
        self.num_asked = 0

    def __len__(self):
        return 64

    def __getitem__(self, index):
        self.num_asked += 1
        x, y = self.data[index]
        return x + float(self.draws.normal()), y


class Jitter:
    def __init__(self):
        self.draws = np.random.default_rng(1)

    def __call__(self, items):
        x, y = default_collate(items)
        return x * float(self.draws.normal(1, 0.1)), y


class Remembering(TinyModule):
    """A teacher, a queue and a counter that the step itself moves on."""

    def __init__(self):
        super().__init__(batch_norm=True, dropout=0.3)
        self.teacher = nn.Linear(6, 3).requires_grad_(False)
        self.queue = []
        self.num_steps = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.num_steps += 1
        self.queue.append(x[0, 0].item())
        self.teacher.weight.mul_(0.99)
        loss = F.cross_entropy(self.net(x), y) + F.mse_loss(self.net(x), self.teacher(x))
        return loss * (1 + 0 * sum(self.queue))


def test_a_run_is_the_same_with_and_without_it():
    found = []
    for self_check in (True, False):
        torch.manual_seed(0)
        module, data = Remembering(), Dice()
        loader = DataLoader(data, B, shuffle=True, collate_fn=Jitter())
        callback = fit(module, loader=loader, epochs=3, self_check=self_check, seed=1)
        rows = torch.stack(list(callback.trajectories.rows))
        found.append((weights_of(module), module.queue, module.num_steps, data.num_asked, rows))
    (with_it, *rest, rows), (without, *others, other_rows) = found
    assert_identical(with_it, without)
    assert rest == others
    torch.testing.assert_close(rows, other_rows, rtol=0, atol=0, equal_nan=True)


def test_it_costs_two_passes_of_a_batch():
    steps = []

    class Counted(TinyModule):
        def training_step(self, batch, batch_idx):
            steps.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    fit(Counted(), epochs=2, callback=DynamicPruningCallback("loss", InfoBatch(0.0)))
    without = len(steps) - 8
    steps.clear()
    fit(
        Counted(),
        epochs=2,
        callback=DynamicPruningCallback("loss", InfoBatch(0.0), self_check=False),
    )
    assert without - (len(steps) - 8) == 2


# ---- later epochs -------------------------------------------------------------------------


class Changing(Step):
    """Cross-entropy for two epochs, then ``loss_of``."""

    def training_step(self, batch, batch_idx):
        if self.current_epoch < 2:
            return TinyModule.training_step(self, batch, batch_idx)
        return self.loss_of(self, *batch)


def only_a_metric(m, x, y):
    logits = m.net(x)
    F.cross_entropy(logits, y)
    return (1 - logits.softmax(1).gather(1, y[:, None]) ** 0.7).mean() / 0.7


def test_a_loss_that_is_only_a_metric_after_a_warm_up_is_refused_there():
    with pytest.raises(REFUSED, match="one loss per sample"):
        fit(Changing(only_a_metric), epochs=4)


def test_a_loss_that_is_seen_in_part_after_a_warm_up_is_refused_there():
    with pytest.raises(REFUSED, match="add up"):
        fit(Changing(HALF_SEEN["Dice and cross-entropy"]), epochs=4)


def test_a_term_that_grows_from_zero_is_refused_when_it_counts():
    def annealed(m, x, y):
        return F.cross_entropy(m.net(x), y) + m.current_epoch * m.net(x).square().mean()

    with pytest.raises(REFUSED, match="add up"):
        fit(Step(annealed), epochs=4)


def with_labels_only(m, x, y):
    has_label = x[:, 0] < 1.9
    logits = m.net(x)
    return F.cross_entropy(logits[has_label], y[has_label]) + F.mse_loss(m.decoder(logits), x)


def with_boxes_only(m, x, y):
    has_box = x[:, 0] > 1.9
    logits = m.net(x)
    loss = F.cross_entropy(logits, y)
    return loss + F.l1_loss(m.decoder(logits)[has_box], x[has_box]) if has_box.any() else loss


@pytest.mark.parametrize("loss_of", [with_labels_only, with_boxes_only])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_term_that_some_batches_show_with_other_rows_is_refused_there(loss_of, num_workers):
    x, y = make_data(64).tensors
    x[:, 0] = 0
    x[50, 0] = 2
    data = torch.utils.data.TensorDataset(x, y)
    fit(Step(loss_of), loader=DataLoader(data, B, sampler=range(48)))
    with pytest.raises(REFUSED, match="add up"):
        fit(Step(loss_of), loader=DataLoader(data, B, num_workers=num_workers))
    fit(Step(loss_of), loader=DataLoader(data, B), self_check=False)


def test_a_penalty_that_some_steps_have_trains():
    def now_and_then(m, x, y):
        loss = F.cross_entropy(m.net(x), y)
        weight = m.net[0].weight
        return loss + F.mse_loss(weight, weight.detach() / 2) if m.global_step % 3 == 2 else loss

    callback = fit(Step(now_and_then), epochs=3)
    assert not callback.trajectories.rows[0].isnan().any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_penalty_that_begins_after_a_warm_up_trains(num_workers):
    loader = DataLoader(make_data(64), B, num_workers=num_workers)
    callback = fit(Changing(SEEN["L1"]), epochs=4, loader=loader)
    assert len(callback.trajectories.rows) == 4


def test_it_takes_a_bool():
    with pytest.raises(TypeError, match="self_check"):
        DynamicPruningCallback(self_check="no")
    assert partial(DynamicPruningCallback.infobatch, self_check=False)().self_check is False


# ---- with the samples named by the batch --------------------------------------------------


class Indexed(Dataset):
    def __init__(self):
        self.data = make_data(64)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return *self.data[index], index


class OfThree(TinyModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)


def sorted_crops(items):
    items = sorted(items, key=lambda item: float(item[0][0]))
    return default_collate([*items, *((0.5 * x, y, index) for x, y, index in items)])


def test_a_batch_that_names_its_samples_may_be_in_any_order():
    loader = DataLoader(Indexed(), B, collate_fn=sorted_crops)
    callback = fit(OfThree(), loader=loader, sample_index=2)
    assert not callback.trajectories.rows[0].isnan().any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_of_a_batch_sampler_are_looked_at(num_workers):
    def mislabelling(items):
        x, y, _ = default_collate(items[::-1])
        return x, y, torch.tensor([index for *_, index in items])

    batches = [list(range(start, start + B)) for start in range(0, 64, B)]
    loader = DataLoader(
        Indexed(), batch_sampler=batches, collate_fn=mislabelling, num_workers=num_workers
    )
    with pytest.raises(REFUSED, match="row i of a loss"):
        fit(OfThree(), loader=loader, sample_index=2)


def test_indices_that_name_other_samples_are_refused():
    def mislabelling(items):  # only the samples are sorted
        x, y, _ = sorted_crops(items)
        return x, y, torch.tensor([index for *_, index in items] * 2)

    with pytest.raises(REFUSED, match="row i of a loss"):
        fit(OfThree(), loader=DataLoader(Indexed(), B, collate_fn=mislabelling), sample_index=2)
