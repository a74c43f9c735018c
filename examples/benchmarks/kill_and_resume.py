"""Kill runs at random moments, resume them, and compare with the same run that nobody killed.

    python examples/benchmarks/kill_and_resume.py --json docs/results/kill_and_resume.json

Loader and checkpoint times are drawn at random, the methods come in turn. A random rank gets
SIGKILL at a random moment after the first checkpoint; every other kill goes on from the newest
whole checkpoint, the others from any whole one. Exact means: on every rank the same samples in
every batch to come, the same weights, losses, reference and selection, bit for bit, and no rank
that hangs.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    IES,
    UCB,
    BatchLoss,
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    PruningSchedule,
    SeTa,
)

EPOCHS = 6
KILLS_PER_RUN = 4
LONGEST_RUN, LONGEST_END = 120.0, 60.0  # seconds; a rank that outlives them hangs
FEATURES, CLASSES = 8, 3

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lightning.pytorch", "lightning_alignprune"])


def short_das() -> DynamicAlignment:
    return DynamicAlignment(window=4, min_observations=2)


METHODS: dict[str, Callable[[], DynamicPruningCallback]] = {
    "infobatch": lambda: DynamicPruningCallback("loss", InfoBatch(0.7)),
    "alignprune": lambda: DynamicPruningCallback(short_das(), InfoBatch(0.7)),
    "pseudo-clean": lambda: DynamicPruningCallback(short_das(), reference="pseudo"),
    "bls": lambda: DynamicPruningCallback("loss", signal=BatchLoss(bias_correction=True)),
    "seta": lambda: DynamicPruningCallback("loss", SeTa(num_groups=3, window_fraction=0.6)),
    "ies": lambda: DynamicPruningCallback("loss", IES(threshold=0.05, revisit_epochs=2)),
    "ucb": lambda: DynamicPruningCallback("loss", UCB()),
    "robust": lambda: DynamicPruningCallback.robust(
        schedule=PruningSchedule(2, finish="selected"), restore_rng=True
    ),
    "float16": lambda: DynamicPruningCallback(short_das(), dtype="float16", keep_history=True),
    "fixed": lambda: DynamicPruningCallback(short_das(), partition="fixed"),
    "dropout": lambda: DynamicPruningCallback("loss", InfoBatch(0.7), restore_rng=True),
}


@dataclass(frozen=True)
class Settings:
    """What a run is made of."""

    method: str
    ranks: int
    num_samples: int
    num_workers: int
    drop_last: bool
    accumulate: int
    save_every_n_steps: int
    validations_per_epoch: int
    sanity_steps: int


def draw_settings(rng: random.Random, ranks: int, method: str) -> Settings:
    accumulate = rng.choice([1, 1, 2])
    return Settings(
        method,
        ranks,
        num_samples=rng.choice([57, 61, 64]),
        num_workers=rng.choice([0, 0, 2]),
        drop_last=rng.random() < 0.3,
        accumulate=accumulate,
        # No checkpoint of Lightning's holds a half-accumulated gradient.
        save_every_n_steps=rng.choice([1, 2, 3, 5]) if accumulate == 1 else 2,
        validations_per_epoch=rng.choice([1, 1, 2]),
        sanity_steps=rng.choice([0, 1]),
    )


class Classifier(pl.LightningModule):
    """A small network with a schedule that counts steps."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        layers = [nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES)]
        self.network = nn.Sequential(*layers)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.network(batch[0]), batch[1]), sync_dist=True)

    def reference_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_data(18, seed=5, noise=0.0), 5)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def make_data(num_samples: int, seed: int, noise: float) -> TensorDataset:
    """Points of three classes, some with a wrong label; each with its number."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, FEATURES, generator=generator)
    y = x[:, :CLASSES].argmax(1)
    is_wrong = torch.rand(num_samples, generator=generator) < noise
    return TensorDataset(x, (y + is_wrong) % CLASSES, torch.arange(num_samples))


class Journal(Checkpoint):
    """Note what each batch holds and when training began; write down at the end what came out.

    A ``Checkpoint`` only to come last, after the decisions of the epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.batches, self.start = folder, {}, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches[trainer.current_epoch, batch_idx] = batch[2].tolist()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callback = next(c for c in trainer.callbacks if isinstance(c, DynamicPruningCallback))
        selection, trajectories = callback.decision.selection, callback.trajectories
        result = {
            "seconds": time.perf_counter() - self.start,
            "steps": trainer.global_step,
            "batches": self.batches,
            "weights": list(pl_module.state_dict().values()),
            "losses": [*trajectories.rows, trajectories.reference],
            "selection": [] if selection is None else [t for t in selection if t is not None],
        }
        torch.save(result, self.folder / f"rank{trainer.global_rank}.pt")


def fit(settings: Settings, folder: Path, checkpoint: Path | None) -> None:
    """Train one run, as one of its ranks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(1, verbose=False)
    loader = DataLoader(
        make_data(settings.num_samples, seed=0, noise=0.4),
        batch_size=8 // settings.ranks,
        shuffle=True,
        num_workers=settings.num_workers,
        drop_last=settings.drop_last,
    )
    every_n_steps = settings.save_every_n_steps
    by_steps = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=every_n_steps)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=settings.ranks,
        strategy="ddp" if settings.ranks > 1 else "auto",
        max_epochs=EPOCHS,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=1 / settings.validations_per_epoch,
        num_sanity_val_steps=settings.sanity_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            METHODS[settings.method](),
            by_steps,
            ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True),
            Journal(folder),
        ],
    )
    module = Classifier(dropout=0.3 if settings.method in ("dropout", "robust") else 0.0)
    val_loader = DataLoader(make_data(14, seed=6, noise=0.0), 7)
    trainer.fit(module, loader, val_loader, ckpt_path=checkpoint)


def enter(settings: Settings, folder: Path, checkpoint: Path | None, rank: int, port: int) -> None:
    """Be a rank, in a process group of its own, with its output in a file."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers
    log = os.open(folder / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if settings.ranks > 1:
        os.environ.update(
            LOCAL_RANK=str(rank),
            NODE_RANK="0",
            WORLD_SIZE=str(settings.ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    fit(settings, folder, checkpoint)


def start(settings: Settings, folder: Path, checkpoint: Path | None = None) -> list[Any]:
    """Start the ranks of a run."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        PROCESSES.Process(target=enter, args=(settings, folder, checkpoint, rank, port))
        for rank in range(settings.ranks)
    ]
    for process in processes:
        process.start()
    return processes


def end(processes: list[Any], seconds: float) -> list[int | None]:
    """Wait for the ranks to end by themselves; return their exit codes, None for one that hung."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and the loader's workers
        process.join()
    return codes


def kill_at_random(
    settings: Settings, folder: Path, seconds: float, rng: random.Random
) -> list[int | None]:
    """Run, kill a rank once there is a checkpoint, and return what became of the ranks."""
    processes = start(settings, folder)
    victim, wait = rng.choice(processes), rng.random() * seconds
    deadline = time.monotonic() + LONGEST_RUN
    while not any(folder.glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(wait)
    with suppress(ProcessLookupError):
        os.killpg(victim.pid, signal.SIGKILL)
    return end(processes, LONGEST_END)


def usable_checkpoints(folder: Path, steps: int) -> list[Path]:
    """List those that a kill did not cut short and with steps to come, oldest first."""
    usable = []
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns):
        with suppress(Exception):
            if torch.load(path, weights_only=True)["global_step"] < steps:
                usable.append(path)
    return usable


def same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    pairs = zip(tensors, others, strict=False)
    return len(tensors) == len(others) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in pairs
    )


def differences(settings: Settings, whole: Path, resumed: Path) -> list[str]:
    """Name what a resumed run did otherwise than the whole one."""
    found = []
    for rank in range(settings.ranks):
        a, b = (torch.load(folder / f"rank{rank}.pt") for folder in (whole, resumed))
        first = min(b["batches"], default=None)
        to_come = {k: v for k, v in a["batches"].items() if first is not None and k >= first}
        found += [f"rank {rank}: batches"] if to_come != b["batches"] else []
        for name in ("weights", "losses", "selection"):
            found += [f"rank {rank}: {name}"] if not same(a[name], b[name]) else []
    return found


class Battery:
    """Kill and resume until there are enough kills; keep count.

    Args:
        ranks: How many processes a run has.
        num_kills: When it is enough.
        seed: Of the settings and moments.
        folder: Where runs write.
    """

    def __init__(self, ranks: int, num_kills: int, seed: int, folder: Path) -> None:
        self.ranks, self.num_kills, self.folder = ranks, num_kills, folder
        self.rng = random.Random(f"{seed} {ranks}")
        self.kills: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.num_not_counted = 0

    def run(self) -> None:
        """Take the methods in turn."""
        turn = 0
        while self.kills.total() < self.num_kills:
            method = list(METHODS)[turn % len(METHODS)]
            self._one_run(draw_settings(self.rng, self.ranks, method), self.folder / str(turn))
            turn += 1
            print(f"  {self.kills.total()} kills, {len(self.failures)} not exact", flush=True)

    def _one_run(self, settings: Settings, folder: Path) -> None:
        folder.mkdir()
        whole = folder / "whole"
        codes = end(start(settings, whole), LONGEST_RUN)
        if any(code != 0 for code in codes):
            self._fail(settings, [f"unkilled run ended with {codes}"], whole)
            return
        for kill in range(min(KILLS_PER_RUN, self.num_kills - self.kills.total())):
            self._one_kill(settings, whole, folder / f"killed{kill}")

    def _one_kill(self, settings: Settings, whole: Path, killed: Path) -> None:
        result = torch.load(whole / "rank0.pt")
        codes = kill_at_random(settings, killed, result["seconds"], self.rng)
        checkpoints = usable_checkpoints(killed, result["steps"])
        if -signal.SIGKILL not in codes or not checkpoints:
            self.num_not_counted += 1  # it had ended before, or had nothing to go on from
            return
        takes_newest = self.kills.total() % 2 == 0
        self.kills[settings.method] += 1
        checkpoint = checkpoints[-1] if takes_newest else self.rng.choice(checkpoints)
        resumed = killed.with_name(f"{killed.name}-resumed")
        ends = end(start(settings, resumed, checkpoint), LONGEST_RUN)
        found = [f"a rank hung after the kill: {codes}"] if None in codes else []
        if any(code != 0 for code in ends):
            found.append(f"the resumed run ended with {ends}")
        else:
            found += differences(settings, whole, resumed)
        if found:
            self._fail(settings, [*found, f"from {checkpoint.name}"], resumed)

    def _fail(self, settings: Settings, found: list[str], folder: Path) -> None:
        self.failures.append({**asdict(settings), "found": found})
        print("  not exact:", self.failures[-1], flush=True)
        for log in folder.glob("log*.txt"):
            print(log.read_text()[-2000:], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="for each number of ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "seed": args.seed,
    }
    for ranks in args.ranks:
        print(f"{ranks} rank(s)", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            battery = Battery(ranks, args.kills, args.seed, Path(folder))
            battery.run()
        lost = Counter(failure["method"] for failure in battery.failures)
        print(f"{'method':14}{'kills':>6}{'exact':>6}")
        for method, kills in sorted(battery.kills.items()):
            print(f"{method:14}{kills:6}{kills - lost[method]:6}")
        total = battery.kills.total()
        print(f"{'all':14}{total:6}{total - len(battery.failures):6}")
        report[f"{ranks} rank(s)"] = {
            "kills": dict(battery.kills),
            "exact": total - len(battery.failures),
            "failures": battery.failures,
            "not_counted": battery.num_not_counted,
        }
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
