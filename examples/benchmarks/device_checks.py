"""What a GPU has to show: no synchronisation on the batch path, milliseconds at the epoch end.

    python examples/benchmarks/device_checks.py --json device_checks.json

Needs a CUDA device. Checks that recording makes no synchronising call
(``torch.cuda.set_sync_debug_mode("error")`` around the steps of a real fit), for the plain and for
the calibrated loss, and times the epoch end at 1,281,167 samples with CUDA events. Run the tests
marked ``gpu`` beside it: ``python -m pytest -m gpu``.
"""

import argparse
import json
import logging
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    MixtureCut,
    PruningSchedule,
    ReferenceRank,
    SampleLoss,
    SeTa,
)
from lightning_alignprune.functional import calibrate
from lightning_alignprune.pruner import Pruner

_NUM_CLASSES = 10


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, _NUM_CLASSES))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class NoSyncInSteps(pl.Callback):
    """Raise at a synchronising call of our hooks and of the step between them.

    First in the list its ``on_train_batch_start`` runs before ours; a second one, last in the list,
    has its ``on_train_batch_end`` run after ours.
    """

    def __init__(self, opens: bool) -> None:
        self.opens = opens

    def on_train_batch_start(self, *args: Any) -> None:
        if self.opens:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *args: Any) -> None:
        if not self.opens:
            torch.cuda.set_sync_debug_mode("default")


def make_data(num_samples: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, 64, generator=generator)
    return TensorDataset(inputs, inputs[:, :_NUM_CLASSES].argmax(1))


def check_no_sync(make: Callable[[TensorDataset], DynamicPruningCallback], precision: Any) -> None:
    """Fit for a few epochs with synchronisation forbidden within the steps."""
    trainer = pl.Trainer(
        max_epochs=8,
        accelerator="gpu",
        devices=1,
        precision=precision,
        callbacks=[NoSyncInSteps(True), make(make_data(200, 1)), NoSyncInSteps(False)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), DataLoader(make_data(2000, 0), 100, shuffle=True))


def device_milliseconds(run: Callable[[], Any], repeats: int = 20) -> float:
    run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def filled(pruner: Pruner, num_reference: int = 1000) -> Pruner:
    """Give a pruner twenty-five epochs of made losses."""
    size = pruner.shard.num_samples
    generator = torch.Generator("cuda").manual_seed(0)
    for epoch in range(25):
        losses = torch.rand(size, generator=generator, device="cuda") * 3 / (1 + epoch)
        pruner.trajectories.record(pruner.indices, losses)
        reference = torch.rand(num_reference, generator=generator, device="cuda") * 3 / (1 + epoch)
        pruner.close_epoch(epoch, reference.mean(), reference_samples=reference)
    return pruner


def measure(num_samples: int) -> dict[str, float]:
    schedule = PruningSchedule(1, stop_fraction=1.0)
    das = DynamicAlignment(window=25)
    cases = {
        "das_and_infobatch_ms": (das, InfoBatch()),
        "das_and_seta_ms": (das, SeTa()),
        "rank_and_mixture_ms": (ReferenceRank(), MixtureCut(patience=0)),
    }
    times = {}
    for name, (score, policy) in cases.items():
        pruner = filled(Pruner(num_samples, SampleLoss(), score, policy, schedule, device="cuda"))
        times[name] = device_milliseconds(lambda pruner=pruner: pruner.decide(25, 0.5))
    logits = torch.randn(1000, 20, device="cuda")
    labels = torch.arange(1000, device="cuda") % 20
    times["calibrate_1000x20_ms"] = device_milliseconds(lambda: calibrate(logits, labels), 5)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("device_checks.py: expected a CUDA device, got none. Run it on a GPU.")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    makers: dict[str, Callable[[TensorDataset], DynamicPruningCallback]] = {
        "alignprune": lambda reference: DynamicPruningCallback(reference=reference),
        "robust": DynamicPruningCallback.robust,
    }
    for precision in ("32-true", "bf16-mixed"):
        for name, make in makers.items():
            check_no_sync(make, precision)
            results[f"no_sync_{name}_{precision}"] = True
    results |= measure(args.samples)
    print(json.dumps(results, indent=1))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
