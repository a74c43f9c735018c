"""MixtureCut: prune what is probably mislabelled, by a mixture of right and wrong labels."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_float, check_int
from lightning_alignprune.functional.draws import uniform
from lightning_alignprune.functional.mixture import (
    Cut,
    gaussian_cut,
    reference_cut,
    reference_rank,
)
from lightning_alignprune.functional.selection import (
    RESCALES,
    Rescale,
    Selection,
    infobatch_selection,
)
from lightning_alignprune.policies._floors import with_floors
from lightning_alignprune.policies.base import Policy, SelectionContext

_READMIT_STREAM = 3


class MixtureCut(Policy):
    """Prune the samples whose labels are probably wrong, and some of the easy ones.

    The scores are a mixture of right and wrong labels. Where the score can also be computed for
    the reference set (``MeanLoss``, ``ReferenceRank``, ``DynamicAlignment``), the reference shows
    what right labels look like, the excess of bad scores over it is the share of wrong labels, and
    the cut lies where their estimated share among the samples reaches ``max_wrong``. Otherwise two
    Gaussians are fitted. On clean labels nothing stands out and nothing is cut. What is trained on
    looks better with every epoch, wrong or right; so the cut never takes fewer samples than before,
    and one comes back in exchange for one that looks worse by now.

    A small share of the cut samples comes back for one epoch to be looked at again, as long as the
    reference loss still improves. Among the samples that are not cut some of the easy ones (last
    loss below the mean) are left out at random as in InfoBatch, and those that stay count for them.
    In the schedule's last epochs all that is not cut trains, with weight 1.

    Args:
        max_wrong: Estimated share of wrong labels at the cut, in (0, 1). Lower cuts more right
            labels away with the wrong ones, which pays when the network memorises.
        patience: The first cut waits until the reference loss has not improved for so many epochs:
            until then the network learns from right labels more than it memorises wrong ones. 0
            cuts from the schedule's ``start_epoch`` on. Without a reference loss there is no wait.
        prune_easy: Chance in [0, 1) that an easy sample is left out of an epoch.
        rescale: ``"expectation"`` weights the easy samples that stay by ``|easy| / |stay|``;
            ``"none"`` weights nothing, and the hard samples, among which the remaining wrong labels
            are, count for more.
        readmit: Chance in [0, 1) that a cut sample that did not train in the epoch before comes
            back for one, while newer losses still enter the score.
        min_kept: Smallest share of the samples that the cut leaves, in (0, 1].
        min_kept_per_class: The same within each class, in [0, 1], where labels can be read from
            the dataset. Counted within each rank's share for ``partition="fixed"``.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Attributes:
        noise_share: Largest estimate of the share of wrong labels so far; None before the first.

    Note:
        Logged as ``pruning/noise_share``. Cost O(N) and a few host synchronisations. Source: ours.
    """

    finish = "selected"
    works_on_shares = True
    uses_reference_scores = True
    uses_labels = True

    def __init__(
        self,
        max_wrong: float = 0.2,
        patience: int = 5,
        prune_easy: float = 0.5,
        rescale: Rescale = "expectation",
        readmit: float = 0.02,
        min_kept: float = 0.1,
        min_kept_per_class: float = 0.1,
    ) -> None:
        owner = "MixtureCut"
        remedy = "0.2 is the default; lower cuts more."
        self.max_wrong = check_float(owner, "max_wrong", max_wrong, above=0, below=1, remedy=remedy)
        self.patience = check_int(owner, "patience", patience, low=0, remedy="0 does not wait.")
        remedy = "0 switches it off."
        self.prune_easy = check_float(
            owner, "prune_easy", prune_easy, low=0, below=1, remedy=remedy
        )
        self.rescale = check_choice(owner, "rescale", rescale, RESCALES)
        self.readmit = check_float(owner, "readmit", readmit, low=0, below=1, remedy=remedy)
        remedy = "A tenth is the default."
        self.min_kept = check_float(owner, "min_kept", min_kept, above=0, high=1, remedy=remedy)
        self.min_kept_per_class = check_float(
            owner, "min_kept_per_class", min_kept_per_class, low=0, high=1, remedy=remedy
        )
        self.keep_fraction = 1.0 - self.prune_easy
        self.weighs_samples = self.rescale != "none" and self.prune_easy > 0.0
        self.noise_share: float | None = None
        self._has_begun, self._pruned = False, 0.0
        self._known: Tensor | None = None

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        is_new = ~scores.isnan()
        if self._known is not None:
            scores = torch.where(is_new, scores, self._known.to(scores.device))
        self._known = scores
        kept = torch.ones_like(is_new)
        if self._may_begin(context):
            self._has_begun = True
            kept = ~self._cut(scores, context)
            if self.readmit and context.is_learning and not context.is_finishing:
                draws = uniform(context.indices, context.seed, context.epoch, _READMIT_STREAM)
                kept |= self._is_unseen(context) & (draws < self.readmit)
        if not self.prune_easy or context.is_finishing:
            return Selection(kept)
        easy = infobatch_selection(
            torch.where(kept, context.trajectories.last, torch.nan),
            self.prune_easy,
            context.indices,
            context.seed,
            context.epoch,
            self.rescale,
            context.all_reduce,
        )
        return Selection(kept & easy.kept, easy.weights)

    @staticmethod
    def _is_unseen(context: SelectionContext) -> Tensor:
        rows = context.trajectories.rows
        return rows[-1].isnan() if rows else torch.zeros_like(context.indices, dtype=torch.bool)

    def _may_begin(self, context: SelectionContext) -> bool:
        waited = context.epochs_since_best
        return self._has_begun or waited is None or waited >= self.patience

    def _cut(self, scores: Tensor, context: SelectionContext) -> Tensor:
        """Return what is cut, shape (N,), bool; undefined scores are not."""
        reference = context.reference_scores
        if reference is not None:  # an alignment of few or flat epochs is undefined
            reference = reference[~reference.isnan()].to(scores.device)
        if reference is None or not len(reference):
            found: Cut = gaussian_cut(scores, self.max_wrong, context.all_reduce)
            badness, threshold = -scores, -found.threshold
        else:
            badness = reference_rank(-scores, -reference)
            found = reference_cut(
                badness,
                len(reference),
                self.max_wrong,
                least_pruned=self._pruned,
                all_reduce=context.all_reduce,
            )
            threshold = found.threshold
            self._pruned = max(self._pruned, found.pruned)
        self.noise_share = max(found.noise_share, self.noise_share or 0.0)
        badness = badness.nan_to_num(nan=-torch.inf)
        cut = badness > threshold
        return with_floors(cut, badness, context, self.min_kept, self.min_kept_per_class)

    @override
    def metrics(self) -> dict[str, float]:
        return {} if self.noise_share is None else {"noise_share": self.noise_share}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "known": self._known,
            "has_begun": self._has_begun,
            "pruned": self._pruned,
            "noise_share": self.noise_share,
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._known, self._has_begun = state["known"], state["has_begun"]
        self._pruned, self.noise_share = state["pruned"], state["noise_share"]
