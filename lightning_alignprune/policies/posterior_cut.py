"""`PosteriorCut`: leave out what is probably mislabelled."""

import math
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional.draws import uniform
from lightning_alignprune.functional.label_posterior import (
    CONFIDENCE,
    false_discovery_threshold,
    offset_to_share,
)
from lightning_alignprune.functional.mixture import reference_cut, reference_rank
from lightning_alignprune.functional.selection import Selection, infobatch_selection
from lightning_alignprune.policies._floors import with_floors
from lightning_alignprune.policies.base import Policy, SelectionContext

_READMIT_STREAM = 4
# Probabilities are too soft to cut by alone where more than the share _SOFT of the expected wrong
# labels lies below _SURELY_WRONG. In runs where they were sharp 0.13 to 0.46 of it lay there, in
# runs where they were soft 0.58 to 0.79.
_SURELY_WRONG, _SOFT = 0.9, 0.52
# Where the probabilities of wrong labels add up to less of their estimated share, it is no noise:
# they did to 0.79 or more of it with wrong labels, and to half of it with clean ones whose images
# are augmented for training alone, so that predictions are blurred as by noise. After a cut they
# stay at 0.66 or more with wrong labels, mostly above what they were, and sink to 0.4 with clean
# ones.
_AGREES, _STILL_AGREES = 0.7, 0.6
# Ten epochs without a better reference loss do not say that the network memorises, if the rate is
# high. Where it did, the two agreed to 0.86 or more, where it did not to 0.71.
_SURELY_AGREES = 0.8
# An estimate that sees no noise is believed if it would have seen this share of wrong labels.
_MISSED = 0.08
# Share of all samples by which a cut must change to be warned of.
_LEAP = 0.05
# Epochs without a better reference loss after which the network is taken to memorise, if the loss
# rises meanwhile. A small reference that is augmented anew in each pass has lucky epochs, which
# are not surpassed for as long.
_MEMORISES = 10
# And those after which it is if probabilities are sharp and what they add up to sinks below this
# part of what it was one or two epochs ago. Soft ones go up and down by as much.
_STANDS_STILL, _SUNK = 2, 0.95
# And below this part of what it was at the first cut nobody need ask whether the two agree.
_SUNK_FAR = 0.8


class _RankCut(NamedTuple):
    """How bad each sample's rank is, shape (N,), and which are cut, shape (N,), bool."""

    badness: Tensor
    cut: Tensor


def _newest_loss(context: SelectionContext) -> list[float]:
    """Return the reference loss of the last epoch, if there is one."""
    return [loss for loss in context.trajectories.reference[-1:].tolist() if not math.isnan(loss)]


def _agrees(found: float, context: SelectionContext, least: float) -> bool:
    """Say whether the share of wrong labels by their probabilities is about the estimated one."""
    return not context.noise_share or found >= least * context.noise_share


class PosteriorCut(Policy):
    """Prune the samples whose label is wrong with a probability above a threshold.

    For the score ``LabelPosterior``, which says how probable it is that a label is right.

    **When**: the estimated share of wrong labels rises while the network learns and falls as it
    memorises; the first cut comes when it has not risen for ``patience`` epochs. Where neither
    noise nor ranks stand out, nothing is cut.

    **How much**: what is more probably wrong than right, the surest first, as long as not more than
    ``max_right`` of what is cut is right. A network that knows little of its classes cuts less
    then. What has been learned by heart looks right; to make up for it, one number is added to all
    log odds, which has the probabilities add up to the estimated share of wrong labels. It is
    worked out at the first cut, and anew while the reference loss has not improved for more than
    two epochs. Where they add up to less than 70 % of the share before the first cut, the two
    contradict each other and nothing is cut: predictions that augmentation blurs look like noise.
    Where they sink below 60 % of it later while the reference still improves, all that was cut
    comes back.

    **And once the network memorises**, all above the threshold is cut. It does when the reference
    loss has not improved for ten epochs and rises in the last five, and the probabilities still add
    up to 80 % of the estimated share; or when it has not for two epochs, and they sink by 5 % in
    that time. Where inputs say little of their class, as short texts do, that would leave most
    wrong labels in, and probabilities sink by chance too. If at the first cut more than 52 % of all
    that they call wrong lay below 0.9, only the ten epochs count, and after them the ranks of the
    samples' calibrated losses among the reference's are cut as well, where the share of wrong
    labels reaches ``max_wrong``: see :func:`~lightning_alignprune.functional.reference_cut`. Ranks
    are cut then also where the reference is too small for an estimate, which could have missed 8 %
    of wrong labels, if the samples' losses stand out from its own.

    What is not cut trains. To save time there too, ``prune_easy`` leaves some of the easy samples
    (ranks below the mean) out at random as in InfoBatch, and those that stay count for them; where
    the network is still learning at its end that costs accuracy.

    What was cut is looked at again every ``look_every`` epochs, in a forward pass without
    gradients, and comes back when its probability says so. A cut follows its evidence in both
    directions. If half of it comes back at once, or it doubles, while the estimated share of
    noise is what it was, a warning says so.

    Args:
        threshold: Probability of a wrong label above which a sample is cut, in (0, 1).
        patience: Epochs without a larger estimate before the first cut, at least 0.
        max_wrong: Estimated share of wrong labels at the cut by ranks, in (0, 1); lower cuts more.
        max_right: Largest share of right labels among those that are cut, by their probabilities,
            in (0, 1], until the network memorises; 1 cuts all above the threshold. See
            :func:`~lightning_alignprune.functional.false_discovery_threshold`.
        prune_easy: Chance in [0, 1) that an easy sample is left out of an epoch; 0 leaves none out.
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
        cuts_by_rank: Whether ranks are cut too by now.
        offset: What is added to all log odds of wrong labels by now; None before the first cut.
        wrong_kept: Estimated share of wrong labels among what it keeps; None before the first cut.
            The mean of what the probabilities say, which is too low where a network has memorised.

    Note:
        Logged as ``pruning/wrong_kept`` once it cuts. Cost O(N log n) for
        a reference of n samples, and a bool a sample. Source: ours.
    """

    finish = "selected"
    works_on_shares = True
    uses_labels = True

    def __init__(
        self,
        threshold: float = 0.5,
        patience: int = 2,
        max_wrong: float = 0.2,
        max_right: float = 0.03,
        prune_easy: float = 0.0,
        readmit: float = 0.02,
        min_kept: float = 0.1,
        min_kept_per_class: float = 0.1,
        look_every: int = 2,
    ) -> None:
        owner = "PosteriorCut"

        def share(name: str, value: float, remedy: str, **bounds: float) -> float:
            return check_float(owner, name, value, remedy=remedy, **bounds)

        remedy = "0.5 cuts what is more probably wrong than right, 0.9 what surely is."
        self.threshold = share("threshold", threshold, remedy, above=0, below=1)
        self.patience = check_int(owner, "patience", patience, low=0, remedy="0 does not wait.")
        self.max_wrong = share("max_wrong", max_wrong, "0.2 is the default.", above=0, below=1)
        remedy = "1 cuts all above the threshold."
        self.max_right = share("max_right", max_right, remedy, above=0, high=1)
        self.prune_easy = share("prune_easy", prune_easy, "0 switches it off.", low=0, below=1)
        self.weighs_samples = self.prune_easy > 0
        self.readmit = share("readmit", readmit, "0 switches it off.", low=0, below=1)
        remedy = "A tenth is the default."
        self.min_kept = share("min_kept", min_kept, remedy, above=0, high=1)
        self.min_kept_per_class = share(
            "min_kept_per_class", min_kept_per_class, remedy, low=0, high=1
        )
        self.look_every = check_int(
            owner, "look_every", look_every, low=0, remedy="0 does not look."
        )
        self.wrong_kept: float | None = None
        self.cuts_by_rank = False
        self._is_tight = False
        self._found: list[float] = []
        self._losses: list[float] = []
        self._found_first = 0.0
        self._is_soft: bool | None = None
        self.offset: float | None = None
        self._cut: Tensor | None = None
        self._leap: str | None = None

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        self._leap = None
        wrong = (1 - scores).nan_to_num(nan=-torch.inf)
        everything = torch.ones_like(scores, dtype=torch.bool)
        found = self._share_of_wrong(wrong, everything, context)
        if not math.isnan(found):
            self._found = [*self._found, found][-3:]
        self._losses = [*self._losses, *_newest_loss(context)][-_MEMORISES:]
        if self._is_soft is None:
            self._is_soft = self._begun(wrong, found, context)
        if self._is_soft is None:
            return Selection(everything)
        waited = context.epochs_since_best or 0
        if self.offset is None:
            self._found_first = found
        if self.offset is None or waited > _STANDS_STILL:
            self.offset = self._learned_by_heart(wrong, context)
        sinks = not self._is_soft and found < _SUNK * max(self._found, default=0.0)
        memorises = self._stopped_learning(context) and (
            _agrees(found, context, _SURELY_AGREES) or found < _SUNK_FAR * self._found_first
        )
        self._is_tight |= memorises or (sinks and waited >= _STANDS_STILL)
        self.cuts_by_rank |= self._is_soft and memorises
        if waited <= _STANDS_STILL and not _agrees(found, context, _STILL_AGREES):
            self._is_tight = False
            self.wrong_kept = self._cut = None
            return Selection(everything)
        odds = wrong.logit() + self.offset
        wrong = torch.where(wrong.isfinite(), odds.sigmoid(), wrong)
        cut = self._cut_of(wrong, self._threshold_of(odds, context), context)
        self.wrong_kept = self._share_of_wrong(wrong, ~cut, context)
        if context.estimates_since_peak != 0:
            self._leap = self._leap_to(cut, context)
        self._cut = cut
        return self._selection(~cut, context)

    def _begun(self, wrong: Tensor, found: float, context: SelectionContext) -> bool | None:
        """Return whether probabilities are too soft, or None as long as nothing is cut."""
        waited = context.estimates_since_peak
        is_due = bool(wrong.isfinite().any()) and (waited is None or waited >= self.patience)
        if context.is_any(is_due):
            is_noise = _agrees(found, context, _AGREES)
            return self._leaves_much_open(wrong, context) if is_noise else None
        if not self._may_have_missed_noise(context):
            return None
        return True if context.is_any(bool(self._by_rank(context).cut.any())) else None

    def _stopped_learning(self, context: SelectionContext) -> bool:
        """Say whether the reference loss has not improved for long and rises."""
        if (context.epochs_since_best or 0) < _MEMORISES:
            return False
        half, losses = _MEMORISES // 2, self._losses
        return len(losses) < _MEMORISES or fmean(losses[half:]) > fmean(losses[:half])

    def _may_have_missed_noise(self, context: SelectionContext) -> bool:
        """Say whether too small a reference for an estimate may show noise by its losses."""
        return (
            self._stopped_learning(context)
            and context.loss_ranks is not None
            and context.noise_share == 0.0
            and CONFIDENCE * (context.noise_share_error or 0.0) > _MISSED
        )

    def _leaves_much_open(self, wrong: Tensor, context: SelectionContext) -> bool:
        """Say whether the probabilities leave too much open to cut by them alone."""
        if context.loss_ranks is None or not context.noise_share:
            return False
        open_ = wrong[(wrong <= _SURELY_WRONG) & wrong.isfinite()].double().sum()
        total, count = context.total(torch.stack([open_, open_.new_tensor(len(wrong))])).tolist()
        return bool(total > _SOFT * context.noise_share * count)

    @staticmethod
    def _learned_by_heart(wrong: Tensor, context: SelectionContext) -> float:
        """Return what the log odds lack for adding up to the estimated share of wrong labels."""
        if not context.noise_share:
            return 0.0
        return offset_to_share(wrong.logit(), context.noise_share, context.all_reduce)

    def _by_rank(self, context: SelectionContext) -> _RankCut:
        """Cut by the ranks alone; nothing, where no losses stand out from the reference's."""
        assert context.loss_ranks is not None, "ranks are there if they are to be cut"
        device = context.indices.device
        samples, reference = (ranks.to(device) for ranks in context.loss_ranks)
        places = reference_rank(samples, reference)
        found = reference_cut(places, len(reference), self.max_wrong, all_reduce=context.all_reduce)
        # NaN, of what was never seen, compares as False.
        return _RankCut(places.nan_to_num(nan=-torch.inf), places > found.threshold)

    def _threshold_of(self, odds: Tensor, context: SelectionContext) -> float:
        """Return the probability above which a label is cut."""
        if self._is_tight:
            return self.threshold
        surest = false_discovery_threshold(odds, self.max_right, context.all_reduce)
        return max(self.threshold, float(torch.tensor(surest).sigmoid()))

    def _cut_of(self, wrong: Tensor, threshold: float, context: SelectionContext) -> Tensor:
        """Return what is cut, shape (N,), bool."""
        cut, badness = wrong > threshold, wrong
        if self.cuts_by_rank:
            found = self._by_rank(context)
            cut, badness = cut | found.cut, torch.maximum(wrong, found.badness)
        return with_floors(cut, badness, context, self.min_kept, self.min_kept_per_class)

    def _selection(self, kept: Tensor, context: SelectionContext) -> Selection:
        """Select among what is not cut."""
        if context.is_finishing:
            return Selection(kept)
        if self.readmit and not (self.look_every > 0 and context.has_looks):
            draws = uniform(context.indices, context.seed, context.epoch, _READMIT_STREAM)
            kept = kept | (draws < self.readmit)
        if not self.prune_easy or context.loss_ranks is None:
            return Selection(kept)
        easy = infobatch_selection(
            torch.where(kept, context.loss_ranks.samples.to(kept.device), torch.nan),
            self.prune_easy,
            context.indices,
            context.seed,
            context.epoch,
            "expectation",
            context.all_reduce,
        )
        return Selection(kept & easy.kept, easy.weights)

    @override
    def to_look_at(self, kept: Tensor) -> Tensor:
        # Easy samples that were left out by chance need no look.
        return torch.zeros_like(kept) if self._cut is None else self._cut.to(kept.device)

    @staticmethod
    def _share_of_wrong(wrong: Tensor, kept: Tensor, context: SelectionContext) -> float:
        known = kept & wrong.isfinite()
        total = torch.where(known, wrong, 0.0).sum(dtype=torch.float64)
        total, count = context.total(torch.stack([total, known.sum().to(total)]))
        return float(total / count)  # NaN where no probability is known

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
            "the estimated share of wrong labels has not changed. The "
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
        return {"wrong_kept": self.wrong_kept}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "cuts_by_rank": self.cuts_by_rank,
            "is_soft": self._is_soft,
            "is_tight": self._is_tight,
            "found": list(self._found),
            "losses": list(self._losses),
            "found_first": self._found_first,
            "offset": self.offset,
            "wrong_kept": self.wrong_kept,
            "cut": self._cut,
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cuts_by_rank, self.wrong_kept = state["cuts_by_rank"], state["wrong_kept"]
        self.offset, self._cut = state["offset"], state["cut"]
        self._is_soft, self._is_tight = state["is_soft"], state["is_tight"]
        self._found, self._found_first = list(state["found"]), state["found_first"]
        self._losses = list(state["losses"])
