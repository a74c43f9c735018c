"""Play a recording back through the package's own signals and scores.

Legend: ``N`` training samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _lab.recording import Recording
from lightning_alignprune import (
    CalibratedLoss,
    DynamicAlignment,
    LabelOdds,
    LabelPosterior,
    LossTrajectories,
    Margin,
    MeanLoss,
    ReferenceRank,
    ReferenceSamples,
    SampleLoss,
    Score,
    Signal,
    TappedStep,
    TimeAverage,
    WrongEvents,
)
from lightning_alignprune.functional import gaussian_cut, reference_cut, reference_rank
from lightning_alignprune.tap.tapped_step import TappedCall

_BATCH = 4096

#: Signals, and the scores that read what each records.
SCORES: dict[str, tuple[Callable[[], Signal], dict[str, Callable[[], Score]]]] = {
    "loss": (
        SampleLoss,
        {
            "last loss": lambda: MeanLoss(1),
            "mean loss": MeanLoss,
            "DAS, window 10": lambda: DynamicAlignment(10),
            "DAS, all": lambda: DynamicAlignment(None),
        },
    ),
    "calibrated": (
        CalibratedLoss,
        {
            "mean calibrated loss": MeanLoss,
            "reference rank, gated": ReferenceRank,
        },
    ),
    "events": (WrongEvents, {"wrong events": TimeAverage}),
    "plain": (lambda: Margin("none"), {"margin": TimeAverage}),
    "debiased": (lambda: Margin("class"), {"class-debiased margin": TimeAverage}),
    "margin": (Margin, {"calibrated margin": TimeAverage}),
    "odds": (LabelOdds, {"label posterior": LabelPosterior}),
    "decayed": (lambda: LabelOdds(decay=0.8), {"label posterior, decay 0.8": LabelPosterior}),
}


@dataclass
class Moment:
    """What is known after one epoch.

    Attributes:
        epoch: Which.
        scores: Name to scores, shape (N,), high = keep.
        of_reference: Name to the same score of the reference samples, where there is one.
        noise_share: The label posterior's estimate in use, then the newest one; None before.
        reference_loss: Mean loss of the reference, plain and calibrated.
    """

    epoch: int
    scores: dict[str, Tensor]
    of_reference: dict[str, Tensor]
    noise_share: tuple[float, float | None]
    reference_loss: tuple[float, float]


class Player:
    """One signal and its scores, fed with recorded logits epoch by epoch."""

    def __init__(self, recording: Recording, signal: Signal, scores: dict[str, Score]) -> None:
        self.recording, self.signal, self.scores = recording, signal, scores
        windows = [score.window for score in scores.values()]
        window = None if None in windows else max(w for w in windows if w is not None)
        keep_best = any(score.gate == "reference" for score in scores.values())
        self.bank = LossTrajectories(len(recording.given), window, keep_best=keep_best)
        self.reference_loss = float("nan")

    def play(self, epoch: int) -> None:
        logits, given = self.recording.logits[epoch].float(), self.recording.given
        for part in torch.arange(len(given)).split(_BATCH):
            losses = F.cross_entropy(logits[part], given[part], reduction="none")
            call = TappedCall(losses, losses.mean(), "mean", logits[part], given[part])
            values = self.signal.values(TappedStep(len(part), losses.mean(), [call]))
            self.bank.record(part, values)
        seen, labels = self.recording.reference_logits[epoch], self.recording.reference_labels
        plain = F.cross_entropy(seen, labels, reduction="none")
        samples = self.signal.follow_reference(ReferenceSamples(plain, seen, labels))
        self.reference_loss = float(samples.losses.mean())
        compares = self.signal.compares_with_reference
        self.bank.close_epoch(
            epoch,
            samples.losses.mean(),
            self.signal.close_epoch,
            samples.losses if compares else None,
        )


def moments(recording: Recording) -> Iterator[Moment]:
    """Yield what every score says after each epoch."""
    players = {
        key: Player(recording, signal(), {name: make() for name, make in scores.items()})
        for key, (signal, scores) in SCORES.items()
    }
    for epoch in range(len(recording.logits)):
        found: dict[str, Tensor] = {}
        of_reference: dict[str, Tensor] = {}
        for player in players.values():
            player.play(epoch)
            for name, score in player.scores.items():
                found[name] = score.compute(player.bank)
                if (own := score.compute_reference(player.bank)) is not None:
                    of_reference[name] = own
        odds: Any = players["odds"].signal
        shares = (odds.noise_share, odds.newest_share)
        losses = (players["loss"].reference_loss, players["calibrated"].reference_loss)
        yield Moment(epoch, found, of_reference, shares, losses)


def cuts(moment: Moment) -> dict[str, tuple[Tensor, float | None]]:
    """Return each rule's cut, shape (N,), bool, and the share of wrong labels that it estimates."""
    result: dict[str, tuple[Tensor, float | None]] = {}
    share = moment.noise_share[0]
    for name in ("label posterior", "label posterior, decay 0.8"):
        posterior = moment.scores[name]
        for most in (0.9, 0.5, 0.25, 0.1, 0.05):
            result[f"{name}: P(wrong) > {most:g}"] = (1 - posterior > most, share)
    for name in ("reference rank, gated", "mean calibrated loss"):
        own, scores = moment.of_reference.get(name), moment.scores[name]
        if own is not None:
            ranks = reference_rank(-scores, -own)
            cut = reference_cut(ranks, len(own))
            result[f"{name}: excess over the reference"] = (ranks > cut.threshold, cut.noise_share)
    for name in ("mean loss", "calibrated margin", "class-debiased margin"):
        scores = moment.scores[name]
        mixture = gaussian_cut(scores)
        result[f"{name}: two Gaussians"] = (scores < mixture.threshold, mixture.noise_share)
        result[f"{name}: below the mean"] = (scores < scores.nanmean(), None)
    return result


def auroc(scores: Tensor, is_right: Tensor) -> float | None:
    """Chance that a right label scores above a wrong one, ties by halves; None if undefined."""
    if bool(scores.isnan().all()):
        return None
    filled = scores.double().nan_to_num(nan=float(scores.nanmean()))
    _, place, count = filled.unique(return_inverse=True, return_counts=True)
    rank = count.cumsum(0) - (count - 1) / 2
    num_right, num_wrong = int(is_right.sum()), int((~is_right).sum())
    if not num_right or not num_wrong:
        return None
    total = float(rank[place][is_right].sum())
    return (total - num_right * (num_right + 1) / 2) / (num_right * num_wrong)


def judged(cut: Tensor, is_wrong: Tensor) -> dict[str, float | None]:
    """Say what a cut takes and leaves; None where there is nothing."""

    def share(part: Tensor, of: Tensor) -> float | None:
        return float(part[of].float().mean()) if bool(of.any()) else None

    return {
        "cut": float(cut.float().mean()),
        "wrong_in_cut": share(is_wrong, cut),
        "wrong_found": share(cut, is_wrong),
        "wrong_in_kept": share(is_wrong, ~cut),
        "right_kept": share(~cut, ~is_wrong),
    }
