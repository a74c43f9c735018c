"""`PosteriorCut`: leave out what is probably mislabelled, carefully first."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional.draws import uniform
from lightning_alignprune.functional.selection import Selection
from lightning_alignprune.policies._floors import with_floors
from lightning_alignprune.policies.base import Policy, SelectionContext

_READMIT_STREAM = 4
_RISE = 1.005  # of a reference loss that is no mere trembling
# A change of the cut by fewer of all samples is no leap.
_LEAP = 0.05


class PosteriorCut(Policy):
    """Prune the samples whose label is wrong with a probability above a threshold.

    For the score ``LabelPosterior``, which says how probable it is that a label is right. **When**:
    the estimated share of wrong labels rises while the network learns and falls as it memorises;
    the first cut comes when it has not risen for ``patience`` epochs. Where no noise stands
    out, nothing is cut. **How much**: where a network memorises, purity pays, and where it does
    not, every right label that is lost costs. So the cut is careful first. After each epoch in
    which the reference's loss lies above its lowest since the first cut, the threshold is
    multiplied by ``tighten_factor``; but not where, by the probabilities themselves, hardly any
    wrong label is left among the samples that are kept: then it is not they who raise the loss.

    What was cut is looked at again every ``look_every`` epochs, in a forward pass without
    gradients, and comes back when its probability says so. A cut follows its evidence in both
    directions. If half of it comes back at once, or it doubles, while threshold and estimated share
    of noise are what they were, a warning says so.

    Args:
        start_threshold: Probability of a wrong label above which a sample is cut at first, in
            (0, 1).
        tighten_factor: Factor in (0, 1] on that threshold; 1 leaves it where it is.
        min_threshold: The threshold that it does not fall below, in (0, 1).
        target_wrong: Estimated share of wrong labels among the kept at which the threshold stays
            where it is, in [0, 1); 0 always tightens.
        patience: Epochs without a larger estimate before the first cut, at least 0.
        readmit: Chance in [0, 1) that a cut sample trains for one epoch, where there are no looks:
            with ``look_every=0`` or ``sample_index=``, in a plain loop or manual optimisation.
        min_kept: Smallest share of the samples that the cut leaves, in (0, 1].
        min_kept_per_class: The same within each class, in [0, 1], where labels can be read from
            the dataset. Counted within each rank's share for ``partition="fixed"``.
        look_every: After how many epochs the cut samples are looked at again, at least 0; 0 never.
            A look costs a third of training them for an epoch and is counted so.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Attributes:
        threshold: The one in use.
        wrong_kept: Estimated share of wrong labels among what it keeps; None before the first cut.
            The mean of what the probabilities say, which is too low by up to a factor of three
            where a network has memorised.

    Note:
        Logged as ``pruning/threshold`` and ``pruning/wrong_kept`` once it cuts. Cost O(N), and a
        bool a sample. Source: ours.
    """

    finish = "selected"
    works_on_shares = True
    uses_labels = True

    def __init__(
        self,
        start_threshold: float = 0.9,
        tighten_factor: float = 0.6,
        min_threshold: float = 0.05,
        target_wrong: float = 0.01,
        patience: int = 2,
        readmit: float = 0.02,
        min_kept: float = 0.1,
        min_kept_per_class: float = 0.1,
        look_every: int = 2,
    ) -> None:
        owner = "PosteriorCut"

        def share(name: str, value: float, remedy: str, **bounds: float) -> float:
            return check_float(owner, name, value, remedy=remedy, **bounds)

        remedy = "0.5 cuts what is more probably wrong than right, 0.9 what surely is."
        self.start_threshold = share("start_threshold", start_threshold, remedy, above=0, below=1)
        self.tighten_factor = share(
            "tighten_factor", tighten_factor, "1 leaves the threshold.", above=0, high=1
        )
        self.min_threshold = share(
            "min_threshold", min_threshold, "0.05 is the default.", above=0, below=1
        )
        self.target_wrong = share(
            "target_wrong", target_wrong, "0 always tightens.", low=0, below=1
        )
        self.patience = check_int(owner, "patience", patience, low=0, remedy="0 does not wait.")
        self.readmit = share("readmit", readmit, "0 switches it off.", low=0, below=1)
        remedy = "A tenth is the default."
        self.min_kept = share("min_kept", min_kept, remedy, above=0, high=1)
        self.min_kept_per_class = share(
            "min_kept_per_class", min_kept_per_class, remedy, low=0, high=1
        )
        self.look_every = check_int(
            owner, "look_every", look_every, low=0, remedy="0 does not look."
        )
        self.threshold = self.start_threshold
        self.wrong_kept: float | None = None
        self._has_begun = False
        self._lowest_loss = float("inf")
        self._cut: Tensor | None = None
        self._leap: str | None = None

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        self._leap = None
        waited = context.estimates_since_peak
        is_due = bool((~scores.isnan()).any()) and (waited is None or waited >= self.patience)
        if not self._has_begun and not context.is_any(is_due):
            return Selection(torch.ones_like(scores, dtype=torch.bool))
        wrong = (1 - scores).nan_to_num(nan=-torch.inf)
        has_tightened = self._tightened(wrong, context)
        self._has_begun = True
        cut = wrong > self.threshold
        cut = with_floors(cut, wrong, context, self.min_kept, self.min_kept_per_class)
        self.wrong_kept = self._share_of_wrong(wrong, ~cut, context)
        if not has_tightened and waited != 0:
            self._leap = self._leap_to(cut, context)
        self._cut = cut.clone()
        is_looked_at = self.look_every > 0 and context.has_looks
        if self.readmit and not is_looked_at and not context.is_finishing:
            draws = uniform(context.indices, context.seed, context.epoch, _READMIT_STREAM)
            cut &= draws >= self.readmit
        return Selection(~cut)

    def _tightened(self, wrong: Tensor, context: SelectionContext) -> bool:
        """Follow the reference's loss; say whether the threshold was lowered."""
        losses = context.trajectories.reference
        newest = float(losses[-1]) if len(losses) else float("nan")
        before = self.threshold
        if self._has_begun and newest > self._lowest_loss * _RISE:
            kept = wrong <= self.threshold
            if self._share_of_wrong(wrong, kept, context) > self.target_wrong:
                self.threshold = max(min(self.min_threshold, before), before * self.tighten_factor)
        self._lowest_loss = min(self._lowest_loss, newest)  # the old one if the new one is NaN
        return self.threshold < before

    @staticmethod
    def _share_of_wrong(wrong: Tensor, kept: Tensor, context: SelectionContext) -> float:
        known = wrong[kept & wrong.isfinite()].double()
        total, count = context.total(torch.stack([known.sum(), torch.ones_like(known).sum()]))
        return float(total / count.clamp_min(1))

    def _leap_to(self, cut: Tensor, context: SelectionContext) -> str | None:
        """Say so if the cut has changed by more than follows from anything new."""
        if self._cut is None:
            return None
        old = self._cut.to(cut.device)
        counts = torch.stack([old.sum(), (old & ~cut).sum(), (cut & ~old).sum(), (old >= 0).sum()])
        before, back, new, size = context.total(counts).tolist()
        if max(2 * back, new) <= before or max(back, new) <= _LEAP * size:
            return None
        return (
            f"{back} of {before} samples that were cut come back and {new} others are cut, though "
            "neither the threshold nor the estimated share of wrong labels has changed. The "
            "network judges them otherwise than an epoch ago: look at its learning rate and at "
            "the reference loss."
        )

    @override
    def warning(self) -> str | None:
        return self._leap

    @override
    def metrics(self) -> dict[str, float]:
        if self.wrong_kept is None:
            return {}
        return {"threshold": self.threshold, "wrong_kept": self.wrong_kept}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "has_begun": self._has_begun,
            "lowest_loss": self._lowest_loss,
            "wrong_kept": self.wrong_kept,
            "cut": self._cut,
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.threshold, self._has_begun = state["threshold"], state["has_begun"]
        self._lowest_loss, self.wrong_kept = state["lowest_loss"], state["wrong_kept"]
        self._cut = state["cut"]
