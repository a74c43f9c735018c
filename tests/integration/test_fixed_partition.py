"""Each rank keeps the losses of its own share and decides as if it had seen all of them."""

import contextlib
import os
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import WeightedRandomSampler

from lightning_alignprune import (
    BatchLoss,
    DynamicPruningCallback,
    InfoBatch,
    Policy,
    SeTa,
    StaticSubset,
)
from lightning_alignprune.functional import full_selection
from tests.conftest import TinyModule, make_trainer
from tests.integration.forked import run_forked, run_ranks
from tests.integration.ranked_fits import (
    EPOCHS,
    SaveAt,
    SaveInMidEpoch,
    fit,
    fit_rank,
    make_callback,
    same,
)

FIXED = partial(make_callback, partition="fixed")


class Unmoved(TinyModule):
    """Losses that change from epoch to epoch and do not depend on what was trained before."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x) + x[:, :3] * self.trainer.current_epoch
        return F.cross_entropy(logits, y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def whole(results, name, epoch, num_samples=62):
    """Put the shares of a row or a selection together."""
    parts = [result[name][epoch] for result in results]
    if parts[0] is None or len(parts[0]) == num_samples:
        return parts[0]
    out = torch.empty(num_samples, dtype=parts[0].dtype)
    for rank, part in enumerate(parts):
        out[rank :: len(parts)] = part
    return out


def check_shares(results, num_samples=62):
    """Disjoint and equally long; of the rank's own share; nothing pruned is trained."""
    ranks = len(results)
    kept_before = [None] + [whole(results, "kept", e, num_samples) for e in range(EPOCHS - 1)]
    for epoch, kept in enumerate(kept_before):
        shards = [result["shards"][epoch] for result in results]
        wanted = torch.ones(num_samples, dtype=torch.bool) if kept is None else kept
        for rank, shard in enumerate(shards):
            assert len(shard) == len(shards[0]) == len(shard.unique())
            assert (shard % ranks == rank).all()
            assert wanted[shard].all()
        fewest = min(int(wanted[rank::ranks].sum()) for rank in range(ranks))
        assert fewest - 1 <= len(shards[0]) <= fewest
        seen = ~whole(results, "rows", epoch, num_samples).isnan()
        assert torch.equal(torch.cat(shards).sort().values, seen.nonzero().flatten())
    assert len({str(result["metrics"]) for result in results}) == 1
    for name, value in results[0]["weights"].items():
        for other in results[1:]:
            assert torch.equal(value, other["weights"][name]) or "running" in name
    assert any(kept is not None for kept in kept_before), "nothing was pruned"


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_same_decision_as_with_replicated_losses(tmp_path, ranks):
    kwargs = {"num_samples": 64, "make_module": Unmoved}
    replicated = fit(tmp_path / "replicated", ranks, **kwargs)
    fixed = fit(tmp_path / "fixed", ranks, callback=FIXED, **kwargs)
    check_shares(fixed, 64)
    torch.testing.assert_close(fixed[0]["reference"], replicated[0]["reference"])
    for epoch in (0, 1):
        assert len(fixed[0]["rows"][epoch]) == 64 // ranks
        row = whole(fixed, "rows", epoch, 64)
        torch.testing.assert_close(row, replicated[0]["rows"][epoch])
    kept = replicated[0]["kept"][1]
    assert same(whole(fixed, "kept", 1, 64), kept)
    assert 0 < int(kept.sum()) < 64
    # No losses travel: what is merged in the other mode stays where it is.
    assert [results[0]["num_merges"] for results in (fixed, replicated)] == [0, EPOCHS]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_samples": 61, "batch_norm": True},
        {"callback": partial(FIXED, SeTa(3), score="loss"), "shuffle": False},
        {"callback": partial(FIXED, signal=BatchLoss(), reference="validation"), "nodes": 2},
        {"accumulate_grad_batches": 2, "val_check_interval": 0.5},
    ],
    ids=["uneven", "SeTa in order", "BatchLoss and validation", "accumulation"],
)
def test_shares_are_trained_evenly(tmp_path, kwargs):
    results = fit(tmp_path, 2, **({"callback": FIXED} | kwargs))
    check_shares(results, kwargs.get("num_samples", 62))
    assert set(results[0]["validated"]) == set(range(EPOCHS))


def test_a_checkpoint_resumes_on_any_number_of_ranks_and_in_the_other_mode(tmp_path):
    paths = [tmp_path / f"{name}.ckpt" for name in ("two", "four", "alone")]
    bls = {"signal": BatchLoss(bias_correction=True)}
    fixed = partial(FIXED, **bls)
    two = fit(tmp_path / "two", 2, callback=fixed, extra=[partial(SaveAt, paths[0], 2)])
    four = fit(
        tmp_path / "four",
        4,
        callback=fixed,
        extra=[partial(SaveAt, paths[1], 3)],
        ckpt=paths[0],
    )
    alone = fit(tmp_path / "alone", 1, callback=fixed, ckpt=paths[1])
    other = fit(tmp_path / "other", 2, callback=partial(make_callback, **bls), ckpt=paths[1])
    for epoch in range(3):
        row = whole(two, "rows", epoch)
        assert same(whole(four, "rows", epoch), row)
        assert same(alone[0]["rows"][epoch], row)
        assert same(other[1]["rows"][epoch], row)
    kept = whole(two, "kept", 2)
    trained = torch.cat([result["shards"][0] for result in four])
    assert kept[trained].all()
    assert (trained % 4).bincount().tolist() == [len(trained) // 4] * 4
    kept = whole(four, "kept", 0)
    for results in (alone, other):
        trained = torch.cat([result["shards"][0] for result in results])
        assert kept[trained].all()
        assert int(kept.sum()) - len(trained) < 4
    saved = torch.load(paths[1], weights_only=True)["callbacks"]["DynamicPruningCallback"]
    assert len(saved["signal"]["ema"]) == len(saved["kept"]) == 62


def on_rank_zero(context):
    return context if os.environ["RANK"] == "0" else contextlib.nullcontext()


def resume_in_the_other_mode(path):
    text = "mid-epoch with partition='replicated', which it was not"
    with on_rank_zero(pytest.warns(UserWarning, match=text)):
        fit_rank(path.parent, 2, ckpt=path)


def test_a_checkpoint_in_mid_epoch(tmp_path):
    path = tmp_path / "mid.ckpt"
    whole_run = fit(tmp_path / "whole", 2, callback=FIXED)
    fit(tmp_path / "saving", 2, callback=FIXED, extra=[partial(SaveInMidEpoch, path)])
    resumed = fit(tmp_path / "resumed", 2, callback=FIXED, ckpt=path)
    for a, b in zip(whole_run, resumed, strict=True):
        assert all(same(x, y) for x, y in zip(a["rows"], b["rows"], strict=True))
        assert all(torch.equal(x, b["weights"][name]) for name, x in a["weights"].items())
    state = torch.load(path, weights_only=True)["callbacks"]["DynamicPruningCallback"]
    assert int((~state["trajectories"]["running"].isnan()).sum()) == 3 * 8
    work = partial(run_ranks, partial(resume_in_the_other_mode, path), 2)
    run_forked(work, tmp_path / "log")


class BadOnRankOne(TinyModule):
    """One rank sees a bad loss; the gradients, and so the other rank's losses, stay finite."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        shown = losses.detach().clone()
        if self.trainer.global_rank == 1 and self.trainer.current_epoch == 1 and batch_idx == 2:
            shown[1] = torch.nan
        return {"loss": losses.mean(), "sample_loss": shown}


def fit_and_note_the_error(folder, **kwargs):
    rank = os.environ["RANK"]
    with pytest.raises(RuntimeError) as error:
        fit_rank(folder, 2, make_module=BadOnRankOne, **kwargs)
    (folder / f"error{rank}.txt").write_text(str(error.value))


def test_a_bad_loss_on_one_rank_stops_all(tmp_path):
    callback = partial(FIXED, InfoBatch(rescale="none"))
    work = partial(fit_and_note_the_error, tmp_path, callback=callback)
    run_forked(partial(run_ranks, work, 2), tmp_path / "log")
    errors = [(tmp_path / f"error{rank}.txt").read_text() for rank in range(2)]
    assert "for 1 sample(s) in epoch 1, all on other ranks" in errors[0]
    number = int(errors[1].split("first for sample ")[1].split(".")[0])
    assert number % 2 == 1


def fit_and_expect_a_warning(folder, text, policy):
    with on_rank_zero(pytest.warns(UserWarning, match=text)):
        fit_rank(folder, 2, callback=partial(FIXED, policy))


@pytest.mark.parametrize(
    ("indices", "text", "num_trained"),
    [
        (range(0, 62, 2), "kept no sample of rank 1's shard for epoch 1; that epoch trains", 31),
        ([*range(0, 62, 2), *range(1, 21, 2)], "between 10 and 31. Each trains 10, so 51% of", 10),
    ],
    ids=["none", "few"],
)
def test_selections_that_lie_unevenly(tmp_path, indices, text, num_trained):
    work = partial(fit_and_expect_a_warning, tmp_path, text, StaticSubset(indices=[*indices]))
    run_forked(partial(run_ranks, work, 2), tmp_path / "log")
    for rank in range(2):
        result = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert len(result["shards"][2]) == num_trained
        assert result["metrics"]["pruning/left_out_fraction"] == pytest.approx(
            0.0 if num_trained == 31 else 1 - 20 / 41
        )


class NeedsAll(Policy):
    def select(self, scores, context):
        return full_selection(len(scores))


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"policy": NeedsAll()}, "expected a policy that works on shares .*, got NeedsAll"),
        ({"reference": "pseudo"}, "reference='pseudo', which ranks the losses of all"),
    ],
)
def test_what_needs_all_losses_is_refused(kwargs, text):
    callback = DynamicPruningCallback(partition="fixed", **({"reference": "validation"} | kwargs))
    with pytest.raises(MisconfigurationException, match=text):
        callback.setup(make_trainer(callback), TinyModule(), "fit")


def fit_refused(text, **kwargs):
    with pytest.raises(MisconfigurationException, match=text):
        fit_rank(None, 2, callback=FIXED, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (
            {"sampler": partial(WeightedRandomSampler, [1.0] * 62, 62)},
            "no sampler of your own .*, got .*WeightedRandomSampler",
        ),
        ({"use_distributed_sampler": False}, "got use_distributed_sampler=False"),
        ({"num_samples": 1}, "expected a sample for every rank, got 1 on 2 ranks"),
    ],
    ids=["sampler", "not dealt out", "too few"],
)
def test_what_cannot_be_dealt_out_is_refused(tmp_path, kwargs, text):
    run_forked(partial(run_ranks, partial(fit_refused, text, **kwargs), 2), tmp_path / "log")
