"""All rows: the preset and what it is made of, and the rows of the comparison."""

from collections.abc import Callable
from typing import Any

from _table import comparison
from _table.comparison import alignprune, alignprune_seta, infobatch, reference, seta
from _table.method import Method
from _table.tasks import Parts
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
    StaticSubset,
)


def _robust(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback.robust(reference(parts))


def _robust_pseudo(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback.robust("pseudo")


def _posterior_cut(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(
        "LabelPosterior",
        "PosteriorCut",
        "LabelOdds",
        PruningSchedule(2, finish="selected"),
        reference(parts),
    )


def _robust_with(**settings: Any) -> Callable[[Parts], DynamicPruningCallback]:
    """The preset with parts of it exchanged, made anew for each run."""

    def make(parts: Parts) -> DynamicPruningCallback:
        made = {name: value() for name, value in settings.items()}
        return DynamicPruningCallback.robust(reference(parts), **made)

    return make


def _gated_das(parts: Parts) -> DynamicPruningCallback:
    score = DynamicAlignment(window=25, gate="reference")
    return DynamicPruningCallback(
        score=score,
        policy=InfoBatch(1.0, rescale="none"),
        # Before that many epochs the score is undefined and nothing would be pruned anyway.
        schedule=PruningSchedule(start_epoch=score.min_observations, finish="selected"),
        reference=reference(parts),
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
        reference=reference(parts),
    )


def _oracle(parts: Parts) -> DynamicPruningCallback:
    right = (~parts.is_wrong).nonzero().flatten().tolist()
    return DynamicPruningCallback(score="loss", policy=_AfterFirstEpoch(indices=right))


class _AfterFirstEpoch(StaticSubset):
    """Train on everything first, as what the oracle is compared with does."""

    selects_first_epoch = False


METHODS = {
    "full": Method("full training", is_scored=False),
    "reference_only": Method("trained on the reference only", is_scored=False, on_reference=True),
    "infobatch": Method("InfoBatch", infobatch, share=0.73),
    "seta": Method("SeTa", seta, share=0.73),
    "alignprune": Method("AlignPrune on InfoBatch, paper's settings", alignprune, share=0.82),
    "alignprune_seta": Method("AlignPrune on SeTa", alignprune_seta, share=0.68),
    "gated_das": Method("DAS, gated, r 1, finish selected", _gated_das),
    "gated_mean": Method("MeanLoss, gated, r 1, finish selected", _gated_mean),
    "gated_mean_late": Method("MeanLoss, gated, r 1, from epoch 20 on", _gated_mean_late),
    "robust": Method("robust preset", _robust),
    "robust_pseudo": Method("robust preset without clean labels", _robust_pseudo),
    "oracle": Method("noise oracle", _oracle, is_scored=False),
}
ABLATIONS = {
    "robust_plain_loss": Method("robust, plain loss recorded", _robust_with(signal=SampleLoss)),
    "robust_mean_loss": Method(
        "robust, mean of losses instead of ranks",
        _robust_with(score=lambda: MeanLoss(window=10, gate="reference")),
    ),
    "robust_no_gate": Method(
        "robust, no gate",
        _robust_with(score=lambda: ReferenceRank(window=10, gate="none")),
    ),
    "robust_window_3": Method(
        "robust, window 3",
        _robust_with(score=lambda: ReferenceRank(window=3)),
    ),
    "robust_mean_cut": Method(
        "robust, cut at the mean score",
        _robust_with(policy=lambda: InfoBatch(1.0, rescale="none")),
    ),
    "robust_no_patience": Method(
        "robust, first cut after epoch 5",
        _robust_with(policy=lambda: MixtureCut(patience=0)),
    ),
    "robust_no_easy": Method(
        "robust, easy samples stay",
        _robust_with(policy=lambda: MixtureCut(prune_easy=0.0)),
    ),
    "robust_no_weights": Method(
        "robust, easy samples that stay count once",
        _robust_with(policy=lambda: MixtureCut(rescale="none")),
    ),
    "robust_wrong_10": Method(
        "robust, max_wrong 0.1",
        _robust_with(policy=lambda: MixtureCut(max_wrong=0.1)),
    ),
    "robust_wrong_40": Method(
        "robust, max_wrong 0.4",
        _robust_with(policy=lambda: MixtureCut(max_wrong=0.4)),
    ),
    "robust_weak_penalty": Method(
        "robust, penalty of the map fixed at 1",
        _robust_with(signal=lambda: CalibratedLoss(strengths=(1.0,))),
    ),
}
"""The preset with one part changed; run only when named."""

COMPARISON = {
    "full": METHODS["full"],
    "equal_length": Method("full training of equal length", share=1.0, is_scored=False),
    **comparison.AVERAGED,
    **comparison.STATIC,
    **comparison.IN_BATCH,
    **comparison.DYNAMIC,
    **{name: METHODS[name] for name in ("infobatch", "seta", "alignprune", "alignprune_seta")},
    **comparison.PARTS_OF_ALIGNPRUNE,
    **comparison.LOSSES,
    "posterior_cut": Method("PosteriorCut", _posterior_cut),
    **{name: METHODS[name] for name in ("robust", "robust_pseudo", "oracle")},
}
"""What one run with shares to prune compares; its order is that of the tables."""

ALL_METHODS = {**METHODS, **ABLATIONS, **COMPARISON}
