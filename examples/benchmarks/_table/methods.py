"""The rows: what a callback each method is."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from _table.tasks import Parts, unchanged
from lightning_alignprune import (
    CalibratedLoss,
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    MeanLoss,
    MixtureCut,
    PruningSchedule,
    ReferenceRank,
    SampleLoss,
    SeTa,
    StaticSubset,
)

Make = Callable[[Parts], DynamicPruningCallback | None]


def _reference(parts: Parts) -> DataLoader[Any]:
    return DataLoader(
        parts.reference, batch_size=max(1, len(parts.reference)), collate_fn=unchanged
    )


def _full(parts: Parts) -> None:
    """No callback at all: plain Lightning."""


def _infobatch(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(
        score="loss", policy=InfoBatch(0.5), schedule=PruningSchedule(stop_fraction=0.875)
    )


def _reference_only(parts: Parts) -> None:
    """No callback; what is trained is the reference set. See :data:`ON_REFERENCE`."""


def _robust(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback.robust(_reference(parts))


def _robust_pseudo(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback.robust("pseudo")


def _robust_with(**settings: Any) -> Make:
    """The preset with parts of it exchanged, made anew for each run."""

    def make(parts: Parts) -> DynamicPruningCallback:
        made = {name: value() for name, value in settings.items()}
        return DynamicPruningCallback.robust(_reference(parts), **made)

    return make


def _seta(parts: Parts) -> DynamicPruningCallback:
    policy = SeTa(num_groups=5, window_fraction=0.9, prune_probability=0.1)
    return DynamicPruningCallback(score="loss", policy=policy)


def _alignprune(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(
        score=DynamicAlignment(window=25),
        policy=InfoBatch(0.5, rescale="expectation"),
        schedule=PruningSchedule(stop_fraction=0.875, finish="full"),
        reference=_reference(parts),
    )


def _gated_das(parts: Parts) -> DynamicPruningCallback:
    score = DynamicAlignment(window=25, gate="reference")
    return DynamicPruningCallback(
        score=score,
        policy=InfoBatch(1.0, rescale="none"),
        # Before that many epochs the score is undefined and nothing would be pruned anyway.
        schedule=PruningSchedule(start_epoch=score.min_observations, finish="selected"),
        reference=_reference(parts),
    )


def _gated_mean(parts: Parts) -> DynamicPruningCallback:
    return _gated_mean_from(1, parts)


def _gated_mean_late(parts: Parts) -> DynamicPruningCallback:
    # With r 1 an early verdict is final: what is pruned before the network has learned anything
    # keeps the high losses of those epochs in its mean and never comes back.
    return _gated_mean_from(20, parts)


def _gated_mean_from(start_epoch: int, parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(
        score=MeanLoss(gate="reference"),
        policy=InfoBatch(1.0, rescale="none"),
        schedule=PruningSchedule(start_epoch=start_epoch, finish="selected"),
        reference=_reference(parts),
    )


def _alignprune_seta(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(
        score=DynamicAlignment(window=25),
        policy=SeTa(num_groups=5, window_fraction=0.9, prune_probability=0.1),
        reference=_reference(parts),
    )


def _oracle(parts: Parts) -> DynamicPruningCallback:
    right = (~parts.is_wrong).nonzero().flatten().tolist()
    return DynamicPruningCallback(score="loss", policy=_AfterFirstEpoch(indices=right))


class _AfterFirstEpoch(StaticSubset):
    """Train on everything first, as what the oracle is compared with does."""

    selects_first_epoch = False


METHODS: dict[str, tuple[str, Make]] = {
    "full": ("full training", _full),
    "reference_only": ("trained on the reference only", _reference_only),
    "infobatch": ("InfoBatch", _infobatch),
    "seta": ("SeTa", _seta),
    "alignprune": ("AlignPrune on InfoBatch, paper's settings", _alignprune),
    "alignprune_seta": ("AlignPrune on SeTa", _alignprune_seta),
    "gated_das": ("DAS, gated, r 1, finish selected", _gated_das),
    "gated_mean": ("MeanLoss, gated, r 1, finish selected", _gated_mean),
    "gated_mean_late": ("MeanLoss, gated, r 1, from epoch 20 on", _gated_mean_late),
    "robust": ("robust preset", _robust),
    "robust_pseudo": ("robust preset without clean labels", _robust_pseudo),
    "oracle": ("noise oracle", _oracle),
}
ABLATIONS: dict[str, tuple[str, Make]] = {
    "robust_plain_loss": ("robust, plain loss recorded", _robust_with(signal=SampleLoss)),
    "robust_mean_loss": (
        "robust, mean of losses instead of ranks",
        _robust_with(score=lambda: MeanLoss(window=10, gate="reference")),
    ),
    "robust_no_gate": (
        "robust, no gate",
        _robust_with(score=lambda: ReferenceRank(window=10, gate="none")),
    ),
    "robust_window_3": (
        "robust, window 3",
        _robust_with(score=lambda: ReferenceRank(window=3)),
    ),
    "robust_mean_cut": (
        "robust, cut at the mean score",
        _robust_with(policy=lambda: InfoBatch(1.0, rescale="none")),
    ),
    "robust_no_patience": (
        "robust, first cut after epoch 5",
        _robust_with(policy=lambda: MixtureCut(patience=0)),
    ),
    "robust_no_easy": (
        "robust, easy samples stay",
        _robust_with(policy=lambda: MixtureCut(prune_easy=0.0)),
    ),
    "robust_no_weights": (
        "robust, easy samples that stay count once",
        _robust_with(policy=lambda: MixtureCut(rescale="none")),
    ),
    "robust_wrong_10": (
        "robust, max_wrong 0.1",
        _robust_with(policy=lambda: MixtureCut(max_wrong=0.1)),
    ),
    "robust_wrong_40": (
        "robust, max_wrong 0.4",
        _robust_with(policy=lambda: MixtureCut(max_wrong=0.4)),
    ),
    "robust_weak_penalty": (
        "robust, penalty of the map fixed at 1",
        _robust_with(signal=lambda: CalibratedLoss(strengths=(1.0,))),
    ),
}
"""The preset with one part changed; run only when named."""

ALL_METHODS = {**METHODS, **ABLATIONS}
"""Key of each row, with its name and how its callback is made."""

ON_REFERENCE = ("reference_only",)
"""Rows that train on the clean reference set alone."""

WITHOUT_SCORE = ("full", "oracle", "reference_only")
"""Rows that do not choose by a score; their AUROC would say nothing."""


def described(part: Any) -> dict[str, Any]:
    """Say which class with which plain settings an object is, for the JSON of a run."""
    plain = (int, float, str, type(None))
    settings = {
        name: value
        for name, value in vars(part).items()
        if isinstance(value, plain) and not name.startswith("_")
    }
    return {"class": type(part).__name__, **settings}


def description(callback: DynamicPruningCallback | None) -> dict[str, Any] | None:
    """Describe what makes a callback this method and not another."""
    if callback is None:
        return None
    names = ("signal", "score", "policy", "schedule")
    return {name: described(getattr(callback, name)) for name in names}
