"""AlignPrune beside full training and plain InfoBatch, on real data with wrong labels.

scikit-learn's bundled handwritten digits (1,797 images of 8 x 8, no download), 40 % of the training
labels replaced by uniformly drawn wrong ones. Every run of a seed starts from the same weights.

    python examples/digits.py            # under two minutes on two cores
    python examples/digits.py --seeds 1 --epochs 10   # a glance

Prints a table and writes outputs/digits.png: loss courses of clean and wrong-labelled samples
beside the reference, and the scores of both.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_alignprune import (
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    MeanLoss,
    PruningSchedule,
)
from lightning_alignprune.functional import symmetric_uniform

NOISE_RATE = 0.4


class Digits(pl.LightningDataModule):
    """Training images with wrong labels, a clean reference held out of them, and a test set."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        x, y = load_digits(return_X_y=True)
        x = torch.from_numpy(x).float().div(16).sub(0.3)
        y = torch.from_numpy(y)
        rest, test = train_test_split(range(len(y)), test_size=400, random_state=0, stratify=y)
        train, reference = train_test_split(
            rest, test_size=150, random_state=seed, stratify=y[rest]
        )
        noisy, self.is_wrong = symmetric_uniform(y[train], 10, NOISE_RATE, seed)
        self.train_set = TensorDataset(x[train], noisy)
        self.reference_set = TensorDataset(x[reference], y[reference])
        self.test_set = TensorDataset(x[test], y[test])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_set, batch_size=32, shuffle=True)

    def reference_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.reference_set, batch_size=150)


class Net(pl.LightningModule):
    """A stock module: nothing in it knows of pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    @torch.no_grad()
    def accuracy(self, data: TensorDataset) -> float:
        x, y = data.tensors
        self.eval()
        return 100 * (self.net(x).argmax(1) == y).float().mean().item()


def methods(epochs: int) -> dict[str, DynamicPruningCallback]:
    """The rows of the table. Full training carries the callback too, pruning nothing, to watch."""
    window = min(25, epochs)
    removing: dict[str, Any] = {
        "policy": InfoBatch(prune_probability=1.0, rescale="none"),
        "schedule": PruningSchedule(start_epoch=4, finish="selected"),
    }
    settings: dict[str, dict[str, Any]] = {
        "full": {"policy": InfoBatch(0.0), "score": MeanLoss(gate="reference")},
        "InfoBatch": {"score": "loss"},
        "AlignPrune": {"score": DynamicAlignment(window=window)},
        "DAS, gated, removing": {"score": DynamicAlignment(None, gate="reference"), **removing},
        "mean, gated, removing": {"score": MeanLoss(gate="reference"), **removing},
    }
    made = {
        name: DynamicPruningCallback(keep_history=True, **arguments)
        for name, arguments in settings.items()
    }
    return {**made, "robust preset": DynamicPruningCallback.robust(keep_history=True)}


class Bar(pl.Callback):
    """One progress bar over all epochs of all runs."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.update()


def run(name: str, seed: int, epochs: int, bar: Any) -> tuple[dict[str, float], Any]:
    """Train one row with one seed and measure it."""
    pl.seed_everything(seed, verbose=False)
    data, net = Digits(seed), Net()
    callback = methods(epochs)[name]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[callback, Bar(bar)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.perf_counter()
    trainer.fit(net, data)
    seconds = time.perf_counter() - started
    rows = torch.stack(callback.trajectories.rows)
    trained = ~rows.isnan()
    scores = callback.score.compute(callback.trajectories)
    defined = ~scores.isnan()
    is_wrong = data.is_wrong
    # What the last selection kept: the last epoch that was pruned, else all.
    pruned = [t for t in range(len(trained)) if not trained[t].all()]
    kept = trained[pruned[-1]] if pruned else trained[-1]
    # For InfoBatch a high score is a high loss, so its AUROC for right labels is below 0.5.
    auroc = roc_auc_score(~is_wrong[defined], scores[defined])
    return {
        "accuracy": net.accuracy(data.test_set),
        "passes": trained.float().mean().item(),
        "seconds": seconds,
        "wrong_kept": 100 * is_wrong[kept].float().mean().item(),
        "auroc": auroc,
    }, (callback, data)


def mean_and_sd(values: list[float], digits: int) -> str:
    tensor = torch.tensor(values)
    sd = tensor.std().item() if len(values) > 1 else 0.0
    return f"{tensor.mean():.{digits}f} ±{sd:.{digits}f}"


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Format the results for an 80-column terminal."""
    header = ("", "test acc. %", "passes", "seconds", "wrong kept %", "AUROC")
    lines = [header]
    for name, runs in results.items():
        column = {key: [r[key] for r in runs] for key in runs[0]}
        lines.append(
            (
                name,
                mean_and_sd(column["accuracy"], 1),
                f"{torch.tensor(column['passes']).mean():.2f}",
                f"{torch.tensor(column['seconds']).mean():.1f}",
                mean_and_sd(column["wrong_kept"], 1),
                f"{torch.tensor(column['auroc']).mean():.2f}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def draw(callback: DynamicPruningCallback, data: Digits, path: Path) -> None:
    """Draw loss courses and score distributions of one AlignPrune run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = torch.stack(callback.trajectories.rows)
    clean, wrong = "tab:blue", "tab:orange"
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    epochs = torch.arange(1, len(rows) + 1)
    for mask, color, label in (
        (~data.is_wrong, clean, "right labels"),
        (data.is_wrong, wrong, "wrong labels"),
    ):
        losses = rows[:, mask]
        low, middle, high = losses.nanquantile(torch.tensor([0.25, 0.5, 0.75]), dim=1)
        left.plot(epochs, middle, color=color, label=f"{label}: median, quartiles")
        left.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
    left.plot(epochs, callback.trajectories.reference, "k--", label="clean reference")
    left.set(xlabel="epoch", ylabel="training loss", title="Loss courses")
    left.legend(frameon=False, fontsize=8)
    scores = callback.score.compute(callback.trajectories)
    bins = torch.linspace(-1, 1, 41).numpy()
    for mask, color, label in (
        (~data.is_wrong, clean, "right labels"),
        (data.is_wrong, wrong, "wrong labels"),
    ):
        values = scores[mask]
        right.hist(values[~values.isnan()].numpy(), bins, color=color, alpha=0.6, label=label)
    right.set(
        xlabel="Dynamic Alignment Score", ylabel="samples", title="Scores after the last epoch"
    )
    right.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each run")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the figure")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the net is tiny; threads would only wait for each other
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    names = list(methods(args.epochs))
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    shown: Any = None
    with tqdm(total=len(names) * args.seeds * args.epochs, unit="epoch") as bar:
        for seed in range(args.seeds):
            for name in names:
                bar.set_description(f"{name}, seed {seed}")
                measured, run_state = run(name, seed, args.epochs, bar)
                results[name].append(measured)
                if name == "AlignPrune" and seed == 0:
                    shown = run_state
    print(f"\nDigits, {NOISE_RATE:.0%} wrong labels, {args.epochs} epochs, {args.seeds} seeds\n")
    print(table(results))
    print(
        "\nwrong kept: share of wrong labels among the samples of the last selection."
        "\nAUROC: of the method's score for right against wrong labels; 0.5 is chance."
        "\nremoving: dropped samples stay out (r 1, no rescaling, also in the last epochs)."
    )
    draw(*shown, args.out / "digits.png")
    (args.out / "digits.json").write_text(json.dumps(results, indent=1))
    print(f"\nFigure: {args.out / 'digits.png'}")


if __name__ == "__main__":
    main()
