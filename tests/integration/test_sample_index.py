"""With ``sample_index`` the batch says which samples its rows are; the sampler's order does not."""

from collections import namedtuple
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Sampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
)

from lightning_alignprune import (
    BatchLoss,
    DynamicPruningCallback,
    InfoBatch,
    PruningSchedule,
    PseudoModerate,
    Selection,
)
from lightning_alignprune.policies import Policy
from tests.conftest import TinyModule, make_data, make_trainer, weights_of
from tests.integration.ranked_fits import SaveAt, same

NUM_SAMPLES, BATCH_SIZE = 50, 8


class Indexed(Dataset):
    """Each item says its index, and looks a little different whenever it is asked for."""

    def __init__(self, num_samples=NUM_SAMPLES, changes=False):
        self.data, self.changes, self.num_calls = make_data(num_samples), changes, 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        self.num_calls += self.changes
        return {"x": x + 0.01 * self.num_calls, "y": y, "index": index}


class Module(TinyModule):
    """Takes dict batches. Without a learning rate each row's loss can be worked out again."""

    def __init__(self, lr=0.0, **kwargs):
        super().__init__(**kwargs)
        self.lr = lr

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["x"]), batch["y"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Oracle(pl.Callback):
    """Work out from the batches what must be recorded: each sample's mean over its rows."""

    def __init__(self):
        self.rows, self.batches = {}, {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with torch.no_grad():
            losses = F.cross_entropy(pl_module(batch["x"]), batch["y"], reduction="none")
        index = torch.as_tensor(batch["index"]).tolist()
        epoch = self.rows.setdefault(trainer.current_epoch, {})
        self.batches.setdefault(trainer.current_epoch, []).append(index)
        for i, loss in zip(index, losses.tolist(), strict=True):
            epoch.setdefault(i, []).append(loss)

    def row(self, epoch, num_samples=NUM_SAMPLES):
        row = torch.full((num_samples,), torch.nan)
        for i, losses in self.rows[epoch].items():
            row[i] = sum(losses) / len(losses)
        return row


def make_callback(policy=None, **kwargs):
    settings = {
        "score": "loss",
        "sample_index": "index",
        "schedule": PruningSchedule(finish="selected"),
        "keep_history": True,
    }
    return DynamicPruningCallback(policy=policy or InfoBatch(0.7), **(settings | kwargs))


def run(loader, callback=None, module=None, max_epochs=3, **kwargs):
    torch.manual_seed(0)
    callback, oracle = callback or make_callback(), Oracle()
    module = module or Module()
    extra = kwargs.pop("extra", ())
    trainer = make_trainer(callback, oracle, *extra, max_epochs=max_epochs)
    trainer.fit(module, loader, **kwargs)
    return callback, oracle


def check(loader, callback=None, **kwargs):
    callback, oracle = run(loader, callback, **kwargs)
    rows = callback.trajectories.rows
    for epoch, row in enumerate(rows):
        expected = oracle.row(epoch, len(row))
        torch.testing.assert_close(row, expected, equal_nan=True)
    kept = [len(seen) for seen in oracle.rows.values()]
    assert kept[-1] < kept[0], "nothing was pruned"
    return callback, oracle


# ---- what collate functions do ------------------------------------------------------------------


def sort_items(items):
    return default_collate(sorted(items, key=lambda item: float(item["x"][0])))


def drop_items(items):
    return default_collate([item for item in items if item["index"] % 5])


def two_crops(items):
    batch = default_collate(items)
    return {
        "x": torch.cat([batch["x"], -batch["x"]]),
        "y": batch["y"].repeat(2),
        "index": batch["index"].repeat(2),
    }


def three_crops_of_each(items):
    crops = [{**item, "x": item["x"] * scale} for item in items for scale in (1, 2, 3)]
    return default_collate(crops)


def list_of_indices(items):
    return {**sort_items(items), "index": sort_items(items)["index"].tolist()}


COLLATES = [sort_items, drop_items, two_crops, three_crops_of_each, list_of_indices]


@pytest.mark.parametrize(
    ("collate", "num_workers"), [*((collate, 0) for collate in COLLATES), (two_crops, 2)]
)
def test_losses_land_on_the_samples_that_the_batch_names(collate, num_workers):
    loader = DataLoader(
        Indexed(), BATCH_SIZE, shuffle=True, collate_fn=collate, num_workers=num_workers
    )
    callback, oracle = check(loader)
    if collate is drop_items:
        unseen = callback.trajectories.rows[0].isnan().nonzero().flatten()
        assert unseen.tolist() == list(range(0, NUM_SAMPLES, 5))
    if collate in (two_crops, three_crops_of_each):
        assert {len(losses) for losses in oracle.rows[0].values()} <= {2, 3}


def test_without_it_a_sorting_collate_goes_by_the_order_of_the_sampler():
    loader = DataLoader(Indexed(), BATCH_SIZE, shuffle=True, collate_fn=sort_items)
    callback, oracle = run(loader, make_callback(sample_index=None, self_check=False))
    assert not torch.allclose(callback.trajectories.rows[0], oracle.row(0))


def test_samples_drawn_several_times_are_averaged_over_the_epoch():
    generator = torch.Generator().manual_seed(0)
    sampler = WeightedRandomSampler(torch.rand(NUM_SAMPLES), 80, generator=generator)
    _, oracle = check(DataLoader(Indexed(changes=True), BATCH_SIZE, sampler=sampler))
    assert max(len(set(losses)) for losses in oracle.rows[0].values()) > 2


def test_batch_losses_are_averaged_too():
    sampler = WeightedRandomSampler(torch.ones(NUM_SAMPLES), 80)
    callback = make_callback(signal=BatchLoss(0.0))
    means = {}

    class Means(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 0:
                for i in set(batch["index"].tolist()):
                    times = batch["index"].tolist().count(i)
                    means.setdefault(i, []).extend([float(outputs["loss"])] * times)

    run(DataLoader(Indexed(), BATCH_SIZE, sampler=sampler), callback, extra=[Means()])
    row = callback.trajectories.rows[0]
    for i, losses in means.items():
        assert float(row[i]) == pytest.approx(sum(losses) / len(losses))


def test_the_robust_preset_under_a_sorting_collate():
    callback = DynamicPruningCallback.robust(
        Indexed(20), schedule=PruningSchedule(2, finish="selected"), sample_index="index"
    )
    loader = DataLoader(Indexed(), BATCH_SIZE, shuffle=True, collate_fn=sort_items)
    _, oracle = run(loader, callback, Module(lr=0.2), max_epochs=5)
    noted = callback._pruner.samples.losses  # in half precision
    torch.testing.assert_close(noted[0].float(), oracle.row(0), rtol=1e-3, atol=1e-3)
    for epoch, row in enumerate(noted):
        trained = {i for batch in oracle.batches[epoch] for i in batch}
        assert set((~row.isnan()).nonzero().flatten().tolist()) == trained


# ---- forms of batches ---------------------------------------------------------------------------

Named = namedtuple("Named", ["x", "y", "index"])


class Moving(SimpleNamespace):
    def to(self, device, **kwargs):
        return self


def as_tuple(batch):
    return batch["x"], batch["y"], batch["index"]


FORMS = {
    "tuple": (as_tuple, 2),
    "tuple from its end": (as_tuple, -1),
    "nested tuple": (lambda batch: ((batch["x"], batch["y"]), batch["index"]), 1),
    "named tuple": (lambda batch: Named(**batch), "index"),
    "object": (lambda batch: Moving(**batch), "index"),
    "dict with int keys": (lambda batch: {0: batch["x"], 1: batch["y"], 7: batch["index"]}, 7),
}


class AnyForm(Module):
    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            x, y = batch[0], batch[1]
        elif hasattr(batch, "x"):
            x, y = batch.x, batch.y
        else:
            x, y = batch[0] if len(batch) == 2 else batch[:2]
        return F.cross_entropy(self(x), y)


@pytest.mark.parametrize(("form", "key"), FORMS.values(), ids=FORMS)
def test_forms_of_batches(form, key):
    def collate(items):
        return form(sort_items(items))

    torch.manual_seed(0)
    module, data, callback = AnyForm(), Indexed(), make_callback(sample_index=key)
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, collate_fn=collate)
    make_trainer(callback, max_epochs=3).fit(module, loader)
    x, y = data.data.tensors
    with torch.no_grad():
        expected = F.cross_entropy(module(x), y, reduction="none")
    for row in callback.trajectories.rows:
        seen = ~row.isnan()
        torch.testing.assert_close(row[seen], expected[seen])
    assert not seen.all()


# ---- weights ------------------------------------------------------------------------------------


class WeightsByIndex(Policy):
    def select(self, scores, context):
        return Selection(torch.ones_like(context.indices, dtype=torch.bool), self.weights())

    @staticmethod
    def weights(num_samples=NUM_SAMPLES):
        return 1.0 + torch.arange(num_samples) / 10


class Gradients(pl.Callback):
    """Compare the gradients of the pruned epochs with weights put in by hand."""

    num_compared = 0

    def on_after_backward(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            return
        batch = self.batch
        losses = F.cross_entropy(pl_module(batch["x"]), batch["y"], reduction="none")
        by_hand = (losses * WeightsByIndex.weights()[batch["index"]]).sum() / len(losses)
        expected = torch.autograd.grad(by_hand, list(pl_module.parameters()))
        for parameter, gradient in zip(pl_module.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        self.num_compared += 1

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = batch


@pytest.mark.parametrize("collate", [sort_items, drop_items, two_crops])
def test_weights_reach_the_rows_of_their_samples(collate):
    loader = DataLoader(Indexed(), BATCH_SIZE, shuffle=True, collate_fn=collate)
    watch = Gradients()
    run(loader, make_callback(WeightsByIndex()), Module(lr=0.1), extra=[watch])
    assert watch.num_compared == 2 * 7


# ---- batch samplers of the user's own -----------------------------------------------------------


class ByLength(Sampler):
    """Length bucketing: neighbours in length together, the batches in random order."""

    def __init__(self, lengths, batch_size=BATCH_SIZE):
        self.order, self.batch_size = lengths.argsort().tolist(), batch_size

    def __len__(self):
        return len(range(0, len(self.order), self.batch_size))

    def __iter__(self):
        batches = list(BatchSampler(self.order, self.batch_size, False))
        for number in torch.randperm(len(batches)).tolist():
            yield batches[number]


def by_length(data, **kwargs):
    lengths = data.data.tensors[0][:, 0]
    return DataLoader(data, batch_sampler=ByLength(lengths), **kwargs)


@pytest.mark.parametrize(("collate", "num_workers"), [(sort_items, 0), (default_collate, 2)])
def test_length_bucketing(collate, num_workers):
    data = Indexed()
    loader = by_length(data, collate_fn=collate, num_workers=num_workers)
    callback, oracle = check(loader, max_epochs=5)
    sampler = ByLength(data.data.tensors[0][:, 0])
    wanted = {frozenset(batch) for batch in sampler}
    assert {frozenset(batch) for batch in oracle.batches[0]} == wanted  # while nothing is pruned
    assert list(oracle.batches[0]) != list(oracle.batches[1])
    for epoch in range(2, 5):
        batches = oracle.batches[epoch]
        num_kept = sum(map(len, batches))
        assert max(map(len, batches)) <= BATCH_SIZE
        assert len(batches) <= -(-num_kept // BATCH_SIZE) + 2  # fewer steps, not smaller ones
        assert min(map(len, batches)) > 1
    assert callback.trajectories.epochs == [0, 1, 2, 3, 4]


def test_a_resumed_run_of_length_bucketing_draws_what_the_whole_one_drew(tmp_path):
    _, whole = run(by_length(Indexed()), max_epochs=4, extra=[SaveAt(tmp_path / "a.ckpt", 1)])
    _, rest = run(by_length(Indexed()), max_epochs=4, ckpt_path=tmp_path / "a.ckpt")
    assert rest.batches == {epoch: whole.batches[epoch] for epoch in (2, 3)}


def test_a_batch_sampler_without_it_is_still_refused_and_the_remedy_works():
    with pytest.raises(MisconfigurationException, match=r"plain torch BatchSampler.*sample_index="):
        run(by_length(Indexed()), make_callback(sample_index=None))
    run(by_length(Indexed()), make_callback())


def test_a_reference_set_without_a_loader_is_batched_like_the_training_set():
    callback = make_callback(score="DynamicAlignment", reference=Indexed(20))
    callback, _ = run(by_length(Indexed()), callback)
    assert callback.trajectories.reference.isfinite().all()


# ---- resume -------------------------------------------------------------------------------------


class SaveAtBatch(Checkpoint):
    def __init__(self, path, epoch, batch_idx):
        self.path, self.moment = path, (epoch, batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.moment:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("collate", [sort_items, two_crops])
@pytest.mark.parametrize("batched", ["by length", "with replacement"])
def test_resume_in_mid_epoch_is_exact(tmp_path, collate, batched):
    def loader():
        if batched == "by length":
            return by_length(Indexed(), collate_fn=collate)
        sampler = WeightedRandomSampler(torch.ones(NUM_SAMPLES), 80)
        return DataLoader(Indexed(), BATCH_SIZE, sampler=sampler, collate_fn=collate)

    modules = [Module(lr=0.1), Module(lr=0.1)]
    path = tmp_path / "mid.ckpt"
    saving = SaveAtBatch(path, epoch=2, batch_idx=1)
    whole, _ = run(loader(), module=modules[0], max_epochs=4, extra=[saving])
    resumed, _ = run(loader(), module=modules[1], max_epochs=4, ckpt_path=path)
    for a, b in zip(whole.trajectories.rows, resumed.trajectories.rows, strict=True):
        assert same(a, b)
    for a, b in zip(weights_of(modules[0]).values(), weights_of(modules[1]).values(), strict=True):
        assert torch.equal(a, b)


# ---- what is refused ----------------------------------------------------------------------------


def refused(match, loader=None, collate=default_collate, module=None, **kwargs):
    loader = loader or DataLoader(Indexed(), BATCH_SIZE, shuffle=True, collate_fn=collate)
    with pytest.raises(MisconfigurationException, match=match):
        make_trainer(make_callback(**kwargs), max_epochs=1).fit(module or Module(), loader)


def test_a_missing_key_is_named_with_what_the_batch_has():
    refused(
        r"indices in batch\['id'\].*got a dict with the keys 'x', 'y', 'index'", sample_index="id"
    )
    refused(
        r"batch\[5\].*got a tuple of 3 items",
        collate=lambda x: as_tuple(default_collate(x)),
        sample_index=5,
    )
    refused(
        r"batch\['index'\].*got a tuple of 3 items",
        collate=lambda items: as_tuple(default_collate(items)),
    )
    refused(
        r"got a Moving with the attributes x, y, index",
        collate=lambda items: Moving(**default_collate(items)),
        sample_index="id",
    )


def test_what_is_no_index_is_refused():
    refused(
        r"batch\['x'\] to be integers of shape \(R,\).*got \(8, 6\) of torch.float32",
        sample_index="x",
    )


def test_indices_of_an_inner_dataset_are_refused_and_the_remedy_works():
    class WithIndex(Dataset):
        def __init__(self, data):
            self.data = data

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            return {**self.data[index], "index": index}

    inner = Subset(Indexed(), range(10, NUM_SAMPLES))
    refused("add the index in a dataset around", DataLoader(inner, BATCH_SIZE, shuffle=True))
    beyond = Subset(Indexed(90), range(45, 90))
    refused("add the index in a dataset around", DataLoader(beyond, BATCH_SIZE))
    loader = DataLoader(WithIndex(inner), BATCH_SIZE, shuffle=True, collate_fn=sort_items)
    check(loader)


def test_fewer_indices_than_rows_are_refused_with_both_numbers():
    def crops_without_their_indices(items):
        return {**two_crops(items), "index": default_collate(items)["index"]}

    match = r"an index for each row of the loss, got 8 indices beside tensors of 16 rows"
    refused(match, collate=crops_without_their_indices)


def test_a_reference_that_goes_by_the_order_is_refused():
    refused("got PseudoModerate", reference=PseudoModerate(), score="DynamicAlignment")


@pytest.mark.parametrize("value", [True, 1.5, ["index"]])
def test_what_is_no_key_is_refused(value):
    with pytest.raises(TypeError, match="sample_index to be a string, an int or None"):
        DynamicPruningCallback("loss", sample_index=value)
