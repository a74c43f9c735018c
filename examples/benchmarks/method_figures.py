"""Draw the figures of the method cards: how each score ranks, what each policy trains on.

    python examples/benchmarks/method_figures.py --out docs/figures/methods

Each is one run of `examples/digits.py`'s network on its digits, 40 % of the labels wrong, seed 0,
40 epochs; defaults but for the gate of MeanLoss and IES's threshold. A minute and a half on one
core.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import matplotlib
from _table.quiet import quiet_trainer

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from lightning_alignprune import (
    IES,
    UCB,
    DynamicPruningCallback,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    MeanLoss,
    Policy,
    PruningSchedule,
    Score,
    SeTa,
)

sys.path.append(str(Path(__file__).parents[1]))
from digits import Digits, Net

RIGHT, WRONG = "tab:blue", "tab:orange"
SIZE = (6.4, 2.1)


class Watched(NamedTuple):
    """A signal and a score, what the score's axis says, and whether counts need a log scale."""

    signal: str
    score: str | Score
    axis: str
    log: bool = False


SCORES = {
    "last_loss": Watched("SampleLoss", "LastLoss", "LastLoss: the newest loss", log=True),
    "dynamic_alignment": Watched(
        "SampleLoss", "DynamicAlignment", "DynamicAlignment: correlation with the reference"
    ),
    "mean_loss": Watched(
        "SampleLoss", MeanLoss(gate="reference"), "MeanLoss with the gate: minus the mean loss"
    ),
    "reference_rank": Watched(
        "CalibratedLoss", "ReferenceRank", "ReferenceRank: minus the rank in the reference"
    ),
    "label_posterior": Watched(
        "LabelOdds", "LabelPosterior", "LabelPosterior: probability that it is right", log=True
    ),
    "time_average": Watched("Margin", "TimeAverage", "TimeAverage of Margin"),
}


def on_loss(policy: Policy) -> DynamicPruningCallback:
    return DynamicPruningCallback("LastLoss", policy, keep_history=True)


POLICIES: dict[str, Callable[[], DynamicPruningCallback]] = {
    "infobatch": lambda: on_loss(InfoBatch()),
    "seta": lambda: on_loss(SeTa()),
    "dynamic_random": lambda: on_loss(DynamicRandom()),
    "ies": lambda: on_loss(IES(threshold=0.05)),  # the losses of so small a network jump
    "epsilon_greedy": lambda: on_loss(EpsilonGreedy()),
    "ucb": lambda: on_loss(UCB()),
    "mixture_cut": lambda: DynamicPruningCallback(
        "ReferenceRank",
        "MixtureCut",
        "CalibratedLoss",
        PruningSchedule(5, finish="selected"),
        keep_history=True,
    ),
    "posterior_cut": lambda: DynamicPruningCallback.robust(keep_history=True),
}


class Kept(pl.Callback):
    """Note which samples each epoch trains on. A row of losses also has what was looked at."""

    def __init__(self) -> None:
        self.epochs: list[Tensor] = []
        self.passes = 1.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (callback,) = (c for c in trainer.callbacks if isinstance(c, DynamicPruningCallback))
        selection = callback.decision.selection
        self.epochs.append(
            torch.ones(len(callback.trajectories.running))
            if selection is None
            else selection.kept.float()
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.passes = 1 - float(trainer.callback_metrics["pruning/pruned_share_so_far"])


def trained(callback: DynamicPruningCallback, epochs: int) -> tuple[Digits, Kept]:
    """Train once under the callback; return the data and what was trained of them."""
    pl.seed_everything(0, verbose=False)
    data, kept = Digits(0), Kept()
    trainer = quiet_trainer(epochs, [callback, kept])
    trainer.fit(Net(), data)
    return data, kept


def draw_score(name: str, epochs: int) -> Any:
    """Histograms of the scores after a run that prunes nothing."""
    signal, score, label, log = SCORES[name]
    callback = DynamicPruningCallback(score, InfoBatch(0.0), signal=signal, keep_history=True)
    data, _ = trained(callback, epochs)
    scores = callback.score.compute(callback.trajectories)
    known = ~scores.isnan()
    wrong = data.is_wrong[known]
    auroc = roc_auc_score(~wrong, scores[known])
    figure, axis = plt.subplots(figsize=SIZE, layout="constrained")
    values = scores[known]
    bins = torch.linspace(values.min().item(), values.max().item(), 41).numpy()
    for mask, color, group in ((~wrong, RIGHT, "right labels"), (wrong, WRONG, "wrong labels")):
        axis.hist(values[mask].numpy(), bins, color=color, alpha=0.6, label=group, log=log)
    axis.set(xlabel=label, ylabel="samples", title=f"AUROC {auroc:.2f}; high = keep")
    return legend(figure, axis)


def draw_policy(name: str, epochs: int) -> Any:
    """Which share of the right and of the wrong labels each epoch trains on."""
    callback = POLICIES[name]()
    data, kept = trained(callback, epochs)
    rows = torch.stack(kept.epochs)
    figure, axis = plt.subplots(figsize=SIZE, layout="constrained")
    x = torch.arange(len(rows))
    for mask, color, group in (
        (~data.is_wrong, RIGHT, "right labels"),
        (data.is_wrong, WRONG, "wrong labels"),
    ):
        share = rows[:, mask].mean(1)
        axis.plot(x, 100 * share, color=color, label=group, drawstyle="steps-mid")
    axis.set(
        xlabel="epoch",
        ylabel="% trained",
        ylim=(-4, 104),
        title=f"{type(callback.policy).__name__}: {kept.passes:.0%} of the passes",
    )
    return legend(figure, axis)


def legend(figure: Any, axis: Any) -> Any:
    """Put the legend beside the axes, where it hides nothing."""
    axis.title.set_fontsize(10)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the figures")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--only", nargs="+", choices=[*SCORES, *POLICIES], help="some of them")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    draws: dict[str, Callable[[str, int], Any]] = {
        **dict.fromkeys(SCORES, draw_score),
        **dict.fromkeys(POLICIES, draw_policy),
    }
    for name in tqdm(args.only or list(draws), unit="figure"):
        figure = draws[name](name, args.epochs)
        figure.savefig(args.out / f"{name}.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
