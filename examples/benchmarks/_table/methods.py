"""All rows: the preset and what it is made of, and the rows of the comparison."""

from collections.abc import Callable
from typing import Any

from _table import comparison
from _table.comparison import (
    alignprune,
    alignprune_seta,
    infobatch,
    reference,
    reference_as_trained,
    seta,
)
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
    return DynamicPruningCallback.robust(reference_as_trained(parts))


def _robust_plain_reference(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback.robust(reference(parts))


def _robust_pseudo(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback.robust("pseudo")


def _ranks_with(**changed: Any) -> Callable[[Parts], DynamicPruningCallback]:
    """Ranks among the reference alone, with parts exchanged, made anew for each run."""

    def make(parts: Parts) -> DynamicPruningCallback:
        return DynamicPruningCallback(
            changed.get("score", ReferenceRank)(),
            changed.get("policy", MixtureCut)(),
            changed.get("signal", CalibratedLoss)(),
            PruningSchedule(5, finish="selected"),
            reference(parts),
        )

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
    "ranks": Method("ranks among the reference alone", _ranks_with()),
    "robust_pseudo": Method("robust preset without clean labels", _robust_pseudo),
    "oracle": Method("noise oracle", _oracle, is_scored=False),
}
ABLATIONS = {
    "ranks_plain_loss": Method("ranks, plain loss recorded", _ranks_with(signal=SampleLoss)),
    "ranks_mean_loss": Method(
        "ranks, mean of losses instead of ranks",
        _ranks_with(score=lambda: MeanLoss(window=10, gate="reference")),
    ),
    "ranks_no_gate": Method(
        "ranks, no gate",
        _ranks_with(score=lambda: ReferenceRank(window=10, gate="none")),
    ),
    "ranks_window_3": Method(
        "ranks, window 3",
        _ranks_with(score=lambda: ReferenceRank(window=3)),
    ),
    "ranks_mean_cut": Method(
        "ranks, cut at the mean score",
        _ranks_with(policy=lambda: InfoBatch(1.0, rescale="none")),
    ),
    "ranks_no_patience": Method(
        "ranks, first cut after epoch 5",
        _ranks_with(policy=lambda: MixtureCut(patience=0)),
    ),
    "ranks_no_easy": Method(
        "ranks, easy samples stay",
        _ranks_with(policy=lambda: MixtureCut(prune_easy=0.0)),
    ),
    "ranks_no_weights": Method(
        "ranks, easy samples that stay count once",
        _ranks_with(policy=lambda: MixtureCut(rescale="none")),
    ),
    "ranks_wrong_10": Method(
        "ranks, max_wrong 0.1",
        _ranks_with(policy=lambda: MixtureCut(max_wrong=0.1)),
    ),
    "ranks_wrong_40": Method(
        "ranks, max_wrong 0.4",
        _ranks_with(policy=lambda: MixtureCut(max_wrong=0.4)),
    ),
    "ranks_weak_penalty": Method(
        "ranks, penalty of the map fixed at 1",
        _ranks_with(signal=lambda: CalibratedLoss(strengths=(1.0,))),
    ),
}
"""Ranks alone with one part changed; run only when named."""

AUGMENTED = {
    "robust_plain_reference": Method(
        "robust preset, reference not augmented", _robust_plain_reference
    ),
}
"""Rows that say something where training is augmented; run only when named."""

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
    **{name: METHODS[name] for name in ("ranks", "robust", "robust_pseudo", "oracle")},
}
"""What one run with shares to prune compares; its order is that of the tables."""

ALL_METHODS = {**METHODS, **ABLATIONS, **AUGMENTED, **COMPARISON}
