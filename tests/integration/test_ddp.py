"""Several ranks decide and train as one process that had seen everything."""

import os
import signal
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import WeightedRandomSampler

from tests.conftest import TinyModule
from tests.integration.forked import run_forked
from tests.integration.ranked_fits import EPOCHS, SaveAt, SaveInMidEpoch, fit, fit_rank, same


def check_ranks(results, num_samples=62):
    """Same decisions everywhere; disjoint, equal shards; nearly all of the selection trained."""
    first, ranks = results[0], len(results)
    for other in results[1:]:
        for name in ("kept", "rows"):
            assert all(same(a, b) for a, b in zip(first[name], other[name], strict=True)), name
        assert same(first["scores"], other["scores"])
        assert same(first["reference"], other["reference"])
        assert first["batches"] == other["batches"]
        assert first["metrics"] == other["metrics"]
        for name, value in first["weights"].items():
            assert torch.equal(value, other["weights"][name]) or "running" in name
    kept_before = [None, *first["kept"][:-1]]
    for epoch, kept in enumerate(kept_before):
        shards = [result["shards"][epoch] for result in results]
        assert len({len(shard) for shard in shards}) == 1
        union = torch.cat(shards)
        assert len(union.unique()) == len(union)
        wanted = torch.ones(num_samples, dtype=torch.bool) if kept is None else kept
        assert wanted[union].all()
        assert int(wanted.sum()) - len(union) < 2 * ranks
        row = first["rows"][epoch]
        assert torch.equal(union.sort().values, (~row.isnan()).nonzero().flatten())
    assert any(kept is not None for kept in first["kept"]), "nothing was pruned"


@pytest.mark.parametrize("ranks", [2, 4])
def test_same_as_one_process_with_the_same_global_batch(tmp_path, ranks):
    # 64 samples over 8: the same batches while nothing is pruned, so the same first selection.
    alone = fit(tmp_path / "alone", 1, num_samples=64)[0]
    together = fit(tmp_path / "together", ranks, num_samples=64)
    check_ranks(together, 64)
    for epoch in (0, 1):
        torch.testing.assert_close(together[0]["rows"][epoch], alone["rows"][epoch])
    torch.testing.assert_close(together[0]["reference"][:2], alone["reference"][:2])
    assert same(together[0]["kept"][1], alone["kept"][1])
    assert not together[0]["kept"][1].all()


def test_one_exchange_per_epoch(tmp_path):
    results = fit(tmp_path, 2)
    # One sum for the reference, one merge of (index, loss) pairs; nothing per step.
    assert [result["calls"] for result in results] == [[2] * EPOCHS] * 2


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_samples": 61},
        {"num_samples": 61, "shuffle": False},
        {"batch_norm": True},
        {"accumulate_grad_batches": 2},
        {"val_check_interval": 0.5},
        {"nodes": 2},
        {"sync_batchnorm": True},  # without a BatchNorm: that one runs on GPUs only
    ],
    ids=str,
)
def test_ranks_agree(tmp_path, kwargs):
    results = fit(tmp_path, 2, **kwargs)
    check_ranks(results, kwargs.get("num_samples", 62))
    assert set(results[0]["validated"]) == set(range(EPOCHS))


def test_logging_and_checkpoints_on_two_ranks(tmp_path):
    saving = partial(ModelCheckpoint, tmp_path, monitor="pruning/kept_fraction", save_top_k=-1)
    logger = CSVLogger(tmp_path, name="", version="log")
    logs = {"logger": logger, "log_every_n_steps": 1, "make_module": partial(TinyModule, logs=True)}
    results = fit(tmp_path, 2, extra=[saving], **logs)
    check_ranks(results)
    assert len(list(tmp_path.glob("*.ckpt"))) == EPOCHS
    lines = (tmp_path / "log" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("pruning/kept_fraction")
    logged = [float(value) for line in lines[1:] if (value := line.split(",")[column])]
    kept = [1.0 if kept is None else float(kept.float().mean()) for kept in results[0]["kept"]]
    assert logged == pytest.approx(kept)


def test_a_users_sampler_over_ranks(tmp_path):
    results = fit(tmp_path, 2, sampler=partial(WeightedRandomSampler, [1.0] * 62, 62, False))
    check_ranks(results)


def test_without_lightnings_sampler_every_rank_sees_all_and_all_decide_alike(tmp_path):
    results = fit(tmp_path, 2, use_distributed_sampler=False)
    for a, b in zip(results[0]["kept"], results[1]["kept"], strict=True):
        assert same(a, b)
    assert torch.equal(results[0]["shards"][2], results[1]["shards"][2])


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_checkpoint_of_two_ranks_resumes_on_others(tmp_path, ranks):
    path = tmp_path / "two.ckpt"
    two = fit(tmp_path / "two", 2, extra=[partial(SaveAt, path, 3)])
    resumed = fit(tmp_path / "others", ranks, ckpt=path)
    for row, theirs in zip(two[0]["rows"][:4], resumed[0]["rows"], strict=False):
        assert same(row, theirs)
    trained = torch.cat([result["shards"][0] for result in resumed])
    kept = two[0]["kept"][3]
    assert kept[trained].all()
    assert int(kept.sum()) - len(trained) < 2 * ranks


def resume_alone(path):
    with pytest.warns(UserWarning, match="mid-epoch on 1 instead of 2 processes"):
        fit_rank(path.parent / "alone", 1, ckpt=path)


def test_another_number_of_ranks_in_mid_epoch_is_warned_of(tmp_path):
    path = tmp_path / "mid.ckpt"
    two = fit(tmp_path / "two", 2, extra=[partial(SaveInMidEpoch, path)])
    (tmp_path / "alone").mkdir()
    run_forked(partial(resume_alone, path), tmp_path / "log")
    alone = torch.load(tmp_path / "alone" / "rank0.pt", weights_only=True)
    for row, theirs in zip(two[0]["rows"][:3], alone["rows"], strict=False):
        assert same(row, theirs)
    # What both ranks had recorded of the running epoch is there too.
    running = torch.load(path, weights_only=True)["callbacks"]["DynamicPruningCallback"]
    assert int((~running["trajectories"]["running"].isnan()).sum()) == 3 * 8


class DiesInEpoch(TinyModule):
    def training_step(self, batch, batch_idx):
        if self.trainer.current_epoch == 3 and self.trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)


def test_a_killed_rank_fails_the_run_and_it_resumes(tmp_path):
    path = tmp_path / "before.ckpt"
    whole = fit(tmp_path / "whole", 2)
    # The other rank fails by itself, with an error, and does not wait for the dead one.
    with pytest.raises(AssertionError, match=r"exit codes by rank: \{0: 1, 1: -9\}"):
        fit(
            tmp_path / "killed",
            2,
            make_module=DiesInEpoch,
            extra=[partial(SaveAt, path, 2)],
        )
    resumed = fit(tmp_path / "resumed", 2, ckpt=path)
    for name, value in whole[0]["weights"].items():
        assert torch.equal(value, resumed[0]["weights"][name]), name
