"""What the robust preset cuts and keeps on digits and on separable classes, seed by seed.

    python examples/benchmarks/robust_digits.py --json docs/results/robust_digits.json

1,000 samples with 40 % wrong labels or none, 300 clean ones, 20 epochs at a constant rate, a
network that learns all labels by heart. Full training beside it. About ten minutes on one core.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from _table.quiet import quiet_trainer
from _table.report import pipes
from _table.training import versions
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_alignprune import DynamicPruningCallback

NUM_SAMPLES, NUM_CLEAN, EPOCHS, NOISE_RATE = 1000, 300, 20, 0.4
TASKS = {
    ("digits", "pair"): "digits, each wrong label the next class",
    ("digits", "uniform"): "digits, uniform noise",
    ("separable", "pair"): "separable classes, each wrong label the next class",
    ("separable", "uniform"): "separable classes, uniform noise",
    ("digits", "clean"): "digits, clean",
}
BOUND = {"digits": 0.95, "separable": 0.99}
"""What a seed must reach of both, wrong labels cut and right ones kept, to be counted."""

CUT, KEPT = "wrong cut: least, mean", "right kept: least, mean"
HEAD = ("", CUT, KEPT, "both", "wrong among kept", "accuracy", "of full training", "passes")


class Net(pl.LightningModule):
    """Large enough to learn wrong labels by heart."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, num_classes))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Data(NamedTuple):
    """Inputs and labels of one seed; the first ``NUM_SAMPLES`` are trained on ``given``."""

    x: Tensor
    y: Tensor
    given: Tensor
    is_wrong: Tensor


def samples(task: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return digits, or five classes that a network tells apart without an error."""
    if task == "digits":
        x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
        return (x / 16).float(), y
    centres = 3 * torch.randn(5, 20, generator=generator)
    y = torch.randint(0, 5, (1500,), generator=generator)
    return centres[y] + torch.randn(len(y), 20, generator=generator), y


def data_of(task: str, noise: str, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x, y = samples(task, generator)
    order = torch.randperm(len(y), generator=generator)
    x, y, num_classes = x[order], y[order], int(y.max()) + 1
    right = y[:NUM_SAMPLES]
    is_wrong = torch.rand(NUM_SAMPLES, generator=generator) < NOISE_RATE
    others = torch.randint(1, num_classes, right.shape, generator=generator)
    if noise == "clean":
        is_wrong = torch.zeros_like(is_wrong)
    step = 1 if noise == "pair" else others
    return Data(x, y, torch.where(is_wrong, (right + step) % num_classes, right), is_wrong)


def train(data: Data, seed: int, *callbacks: pl.Callback) -> tuple[float, float]:
    """Return the accuracy on samples that nothing was trained or measured on, and the passes."""
    pl.seed_everything(seed, verbose=False)
    net = Net(data.x.shape[1], int(data.y.max()) + 1)
    trained = TensorDataset(data.x[:NUM_SAMPLES], data.given)
    loader = DataLoader(trained, batch_size=64, shuffle=True)
    trainer = quiet_trainer(EPOCHS, list(callbacks))
    trainer.fit(net, loader)
    test = slice(NUM_SAMPLES + NUM_CLEAN, None)
    is_right = net.net(data.x[test]).argmax(1) == data.y[test]
    pruned = float(trainer.callback_metrics.get("pruning/pruned_share_so_far", 0.0))
    return float(is_right.float().mean()), 1 - pruned


def run(task: str, noise: str, seed: int) -> dict[str, Any]:
    """Train once on everything and once with the preset."""
    data = data_of(task, noise, seed)
    clean = slice(NUM_SAMPLES, NUM_SAMPLES + NUM_CLEAN)
    callback = DynamicPruningCallback.robust(
        TensorDataset(data.x[clean], data.y[clean]), verbose=False
    )
    accuracy, passes = train(data, seed, callback)
    selection = callback.decision.selection
    kept = torch.ones_like(data.is_wrong) if selection is None else selection.kept
    has_wrong = bool(data.is_wrong.any())
    return {
        "task": task,
        "noise": noise,
        "seed": seed,
        "wrong_cut": float((~kept[data.is_wrong]).float().mean()) if has_wrong else None,
        "right_kept": float(kept[~data.is_wrong].float().mean()),
        "wrong_among_kept": float(data.is_wrong[kept].float().mean()),
        "accuracy": accuracy,
        "accuracy_full": train(data, seed)[0],
        "passes": passes,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """One row a task, of all seeds."""
    rows = [HEAD]
    for (task, noise), name in TASKS.items():
        of_task = [each for each in runs if (each["task"], each["noise"]) == (task, noise)]
        if of_task:
            rows.append((name, *_cells(of_task, BOUND[task])))
    return pipes(rows)


def _cells(runs: list[dict[str, Any]], bound: float) -> tuple[str, ...]:
    cut = [1.0 if each["wrong_cut"] is None else each["wrong_cut"] for each in runs]
    kept = [each["right_kept"] for each in runs]
    reached = sum(min(pair) >= bound for pair in zip(cut, kept, strict=True))
    has_wrong = runs[0]["wrong_cut"] is not None
    return (
        f"{100 * min(cut):.0f}, {100 * fmean(cut):.0f} %" if has_wrong else "-",
        f"{100 * min(kept):.0f}, {100 * fmean(kept):.0f} %",
        f"{bound:.0%}: {reached} of {len(runs)}",
        f"{100 * fmean(each['wrong_among_kept'] for each in runs):.1f} %",
        *(
            f"{100 * fmean(each[key] for each in runs):.1f}"
            for key in ("accuracy", "accuracy_full")
        ),
        f"{fmean(each['passes'] for each in runs):.2f}",
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many, from 0 on")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    cells = [(*task, seed) for task in TASKS for seed in range(args.seeds)]
    runs = [run(*cell) for cell in tqdm(cells, unit="seed")]
    print(table(runs))
    if args.json:
        args.json.write_text(json.dumps({"versions": versions(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
