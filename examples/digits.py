"""Six methods, early stopping and averaged weights side by side, on real data with wrong labels.

scikit-learn's bundled handwritten digits (1,797 images of 8 x 8, no download), 40 % of the training
labels replaced by uniformly drawn wrong ones. Every run of a seed starts from the same weights.

    python examples/digits.py                         # two minutes on two cores
    python examples/digits.py --seeds 1 --epochs 10   # a glance

Prints a table and writes outputs/digits.json (every run's numbers) and outputs/digits.png: losses
of right and wrong labels over the epochs beside the reference, and their means up to its lowest.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_alignprune import (
    DynamicPruningCallback,
    InfoBatch,
    MeanLoss,
    PruningSchedule,
)
from lightning_alignprune.functional import symmetric_uniform

NOISE_RATE = 0.4
FULL, STOPPED, AVERAGED = "full training", "early stopping", "EMA, stopped"
EMA_DECAY = 0.95  # a step, of 39 in an epoch; of 0.9 to 0.99 the best on four other seeds


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
    def evaluate(self, data: TensorDataset) -> tuple[float, float]:
        """Loss and accuracy in percent."""
        x, y = data.tensors
        was_training = self.training
        logits = self.eval().net(x)
        self.train(was_training)
        accuracy = 100 * (logits.argmax(1) == y).float().mean()
        return F.cross_entropy(logits, y).item(), accuracy.item()


def methods(epochs: int) -> dict[str, DynamicPruningCallback | None]:
    """The rows that are runs of their own; those that stop early are read off the first."""
    Callback = DynamicPruningCallback  # noqa: N806
    gated_mean = Callback(
        MeanLoss(gate="reference"),
        InfoBatch(prune_probability=1.0, rescale="none"),
        schedule=PruningSchedule(start_epoch=4, finish="selected"),
        keep_history=True,
    )
    return {
        FULL: None,
        "InfoBatch": Callback.infobatch(keep_history=True),
        "SeTa": Callback.seta(keep_history=True),
        "AlignPrune": Callback.alignprune(window=min(25, epochs), keep_history=True),
        "gated mean loss": gated_mean,
        "robust preset": Callback.robust(keep_history=True),
    }


class Watch(pl.Callback):
    """Measures after every epoch what the table needs; its own time counts for no method.

    With ``averages=True`` it also keeps the moving average of the weights, and times that apart.
    """

    def __init__(self, data: Digits, bar: Any, averages: bool) -> None:
        self.data, self.bar, self.averages = data, bar, averages
        self.epochs: list[dict[str, float]] = []
        self.averaged_epochs: list[dict[str, float]] = []
        self.seconds_watching = self.seconds_averaging = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Net) -> None:
        self.averaged = AveragedModel(
            pl_module, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True
        )
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Net, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.averages:
            now = time.perf_counter()
            self.averaged.update_parameters(pl_module)
            self.seconds_averaging += time.perf_counter() - now

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Net) -> None:
        now = time.perf_counter()
        seconds = now - self.started - self.seconds_watching
        plain = seconds - self.seconds_averaging
        self.epochs.append({**self.measure(pl_module), "seconds": plain})
        if self.averages:
            self.averaged_epochs.append({**self.measure(self.averaged.module), "seconds": seconds})
        self.bar.update()
        self.seconds_watching += time.perf_counter() - now

    def measure(self, net: Net) -> dict[str, float]:
        loss, _ = net.evaluate(self.data.reference_set)
        _, accuracy = net.evaluate(self.data.test_set)
        return {"reference_loss": loss, "accuracy": accuracy}


def run(name: str, seed: int, epochs: int, bar: Any) -> tuple[dict[str, dict[str, Any]], Any]:
    """Train one row with one seed and measure it; full training gives the stopped ones too."""
    pl.seed_everything(seed, verbose=False)
    data, net, callback = Digits(seed), Net(), methods(epochs)[name]
    watch = Watch(data, bar, averages=callback is None)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[watch] if callback is None else [callback, watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, data)
    if callback is not None:
        last = at_epoch(watch.epochs, epochs - 1)
        return {name: last | selection_of(callback, data.is_wrong)}, (callback, data)
    nothing_cut = {"wrong_among_kept": 100 * NOISE_RATE, "right_kept": 100.0, "auroc": None}
    measured = {
        name: at_epoch(watch.epochs, epochs - 1),
        STOPPED: at_epoch(watch.epochs, best_epoch(watch.epochs)),
        AVERAGED: at_epoch(watch.averaged_epochs, best_epoch(watch.averaged_epochs)),
    }
    return {row: values | nothing_cut for row, values in measured.items()}, None


def best_epoch(measured: list[dict[str, float]]) -> int:
    """The epoch with the lowest reference loss."""
    return min(range(len(measured)), key=lambda epoch: measured[epoch]["reference_loss"])


def at_epoch(measured: list[dict[str, float]], epoch: int) -> dict[str, float]:
    """What a run that trains on everything has come to after an epoch."""
    values = {key: measured[epoch][key] for key in ("accuracy", "seconds")}
    return {**values, "passes": (epoch + 1) / len(measured)}


def selection_of(callback: DynamicPruningCallback, is_wrong: Tensor) -> dict[str, float]:
    """What the run passed through the network, what it kept at last, and how well it ranked."""
    trained = ~torch.stack(callback.trajectories.rows).isnan()
    # The last epoch that was pruned, else all samples.
    pruned = [row for row in trained if not row.all()]
    kept = pruned[-1] if pruned else trained[-1]
    scores = callback.score.compute(callback.trajectories)
    known = ~scores.isnan()
    return {
        "passes": trained.float().mean().item(),
        "wrong_among_kept": 100 * is_wrong[kept].float().mean().item(),
        "right_kept": 100 * kept[~is_wrong].float().mean().item(),
        "auroc": roc_auc_score(~is_wrong[known], scores[known]),
    }


COLUMNS = {  # digits, and whether the standard deviation over the seeds is shown
    "accuracy": ("accuracy %", 1, True),
    "passes": ("passes", 2, False),
    "seconds": ("seconds", 1, False),
    "wrong_among_kept": ("wrong in kept", 1, False),
    "right_kept": ("right kept", 1, False),
    "auroc": ("AUROC", 2, False),
}


def rows(results: dict[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    """The table's cells, the header first."""
    header = ("", *(title for title, _, _ in COLUMNS.values()))
    return [
        header,
        *(
            (name, *(cell([r[key] for r in runs], *COLUMNS[key][1:]) for key in COLUMNS))
            for name, runs in results.items()
        ),
    ]


def cell(values: list[float | None], digits: int, shows_sd: bool) -> str:
    """Mean over the seeds and, of several, standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    sd = f" ±{stdev(known):.{digits}f}" if shows_sd and len(known) > 1 else ""
    return f"{fmean(known):.{digits}f}{sd}"


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Format the results for an 80-column terminal."""
    lines = rows(results)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def draw(callback: DynamicPruningCallback, data: Digits, path: Path) -> None:
    """Draw the losses of one AlignPrune run over the epochs, and what they say of the labels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, reference = torch.stack(callback.trajectories.rows), callback.trajectories.reference
    groups = (
        (~data.is_wrong, "tab:blue", "right labels"),
        (data.is_wrong, "tab:orange", "wrong labels"),
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    epochs = torch.arange(1, len(rows) + 1)
    for mask, color, label in groups:
        losses = rows[:, mask]
        low, middle, high = losses.nanquantile(torch.tensor([0.25, 0.5, 0.75]), dim=1)
        left.plot(epochs, middle, color=color, label=f"{label}: median, quartiles")
        left.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
    left.plot(epochs, reference, "k--", label="clean reference")
    best = int(reference.argmin()) + 1
    left.axvline(best, color="0.5", linewidth=1, label="the reference's lowest")
    left.set(xlabel="epoch", ylabel="training loss", title="Losses")
    left.legend(frameon=False, fontsize=8, loc="upper right")
    means = -MeanLoss(gate="reference").compute(callback.trajectories)
    bins = torch.linspace(0, means[~means.isnan()].max().item(), 41).numpy()
    for mask, color, label in groups:
        values = means[mask]
        right.hist(values[~values.isnan()].numpy(), bins, color=color, alpha=0.6, label=label)
    title = "Mean loss up to the reference's lowest"
    right.set(xlabel="mean loss of a sample", ylabel="samples", title=title)
    right.legend(frameon=False, fontsize=8, loc="upper right")
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
    results: dict[str, list[dict[str, Any]]] = {
        name: [] for name in (FULL, STOPPED, AVERAGED, *names)
    }
    shown: Any = None
    with tqdm(total=len(names) * args.seeds * args.epochs, unit="epoch") as bar:
        for seed in range(args.seeds):
            for name in names:
                bar.set_description(f"{name}, seed {seed}")
                measured, run_state = run(name, seed, args.epochs, bar)
                for row, values in measured.items():
                    results[row].append(values)
                if name == "AlignPrune" and seed == 0:
                    shown = run_state
    seeds = "one seed" if args.seeds == 1 else f"{args.seeds} seeds"
    print(f"\nDigits, {NOISE_RATE:.0%} wrong labels, {args.epochs} epochs, {seeds}\n")
    print(table(results))
    print(
        "\naccuracy: on clean test images. passes: samples trained, full training is 1."
        "\nearly stopping: full training at its best reference loss, chosen in hindsight."
        f"\nEMA: exponential moving average of its weights ({EMA_DECAY} a step), stopped likewise."
        "\nwrong in kept: % wrong labels among the samples of the last selection."
        "\nright kept: % of the right labels that are in it."
        "\nAUROC: of the method's score for right against wrong labels; 0.5 is chance."
        "\ngated mean loss: cut for good, also in the last epochs (r 1, no rescaling)."
    )
    draw(*shown, args.out / "digits.png")
    (args.out / "digits.json").write_text(json.dumps(results, indent=1))
    print(f"\nFigure: {args.out / 'digits.png'}")


if __name__ == "__main__":
    main()
