"""The rows of the comparison: the methods of the papers' tables, and those that came after."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from _table.method import Method
from _table.tasks import Batches, Parts, unchanged
from lightning_alignprune import (
    ELR,
    IES,
    RS2,
    SOP,
    UCB,
    BatchChoice,
    BatchLoss,
    DivBS,
    DynamicAlignment,
    DynamicPruningCallback,
    DynamicRandom,
    EpsilonGreedy,
    GeneralizedCrossEntropy,
    InfoBatch,
    OrderDP,
    Policy,
    PruningSchedule,
    RePB,
    SelectiveBackprop,
    SeTa,
    StaticSubset,
    SymmetricCrossEntropy,
)
from lightning_alignprune import coreset as coresets


def reference(parts: Parts) -> DataLoader[Any]:
    return DataLoader(
        parts.reference, batch_size=max(1, len(parts.reference)), collate_fn=unchanged
    )


def reference_as_trained(parts: Parts) -> DataLoader[Any]:
    """Show the reference as training samples are shown: augmented, where they are."""
    clean = parts.reference
    as_trained = Batches(clean.inputs, clean.labels, parts.train.transform)
    return reference(replace(parts, reference=as_trained))


def infobatch(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(
        score="loss", policy=InfoBatch(0.5), schedule=PruningSchedule(stop_fraction=0.875)
    )


def _seta_policy() -> SeTa:
    return SeTa(num_groups=5, window_fraction=0.9, prune_probability=0.1)


def seta(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(score="loss", policy=_seta_policy())


def alignprune(parts: Parts) -> DynamicPruningCallback:
    return _alignprune_with()(parts)


def _alignprune_with(
    score: Callable[[], DynamicAlignment] = lambda: DynamicAlignment(window=25),
    policy: Callable[[], Policy] = lambda: InfoBatch(0.5, rescale="expectation"),
    schedule: PruningSchedule = PruningSchedule(stop_fraction=0.875, finish="full"),  # noqa: B008
    **settings: Any,
) -> Callable[[Parts], DynamicPruningCallback]:
    """AlignPrune in the paper's settings with parts of it exchanged, made anew for each run."""

    def make(parts: Parts) -> DynamicPruningCallback:
        return DynamicPruningCallback(
            score(), policy(), schedule=schedule, reference=reference(parts), **settings
        )

    return make


def alignprune_seta(parts: Parts) -> DynamicPruningCallback:
    return DynamicPruningCallback(
        DynamicAlignment(window=25), _seta_policy(), reference=reference(parts)
    )


def _by_loss(policy: Callable[[float], Policy]) -> Callable[[float], DynamicPruningCallback]:
    return lambda kept: DynamicPruningCallback("LastLoss", policy(kept))


def _in_batch(choice: Callable[[float], BatchChoice]) -> Callable[[float], DynamicPruningCallback]:
    return lambda kept: DynamicPruningCallback(
        "LastLoss", DynamicRandom(0.0), in_batch=choice(kept)
    )


def _on_batch_loss(policy: Callable[[], Policy]) -> Callable[[Parts], DynamicPruningCallback]:
    return lambda parts: DynamicPruningCallback("LastLoss", policy(), BatchLoss())


def _prunes_nothing(parts: Parts) -> DynamicPruningCallback:
    """What tells a loss which samples it sees."""
    return DynamicPruningCallback("LastLoss", DynamicRandom(0.0))


def _coreset(name: str, make: Callable[[int], coresets.CoresetMethod]) -> Method:
    return Method(name, coreset=make, is_scored=False)


def _loss(name: str, make: Callable[[int, int], Any]) -> Method:
    return Method(name, make=_prunes_nothing, loss=make, is_scored=False)


def _window(epochs: int) -> int:
    """A third of the warm-up, as the papers' 10 of 30 epochs."""
    return max(2, epochs // 3)


_TO_THE_END = PruningSchedule(finish="selected")

STATIC = {
    "static_random": Method(
        "random subset", keeping=_by_loss(lambda kept: StaticSubset(1 - kept)), is_scored=False
    ),
    "small_loss": _coreset("SmallL", lambda _: coresets.SmallLoss()),
    "margin": _coreset("Margin", lambda _: coresets.SmallMargin()),
    "forgetting": _coreset("Forgetting", lambda _: coresets.Forgetting()),
    "forgetting_max": _coreset(
        "Forgetting, never learned first", lambda _: coresets.Forgetting("max")
    ),
    "el2n": _coreset("EL2N", lambda _: coresets.EL2N()),
    "grand": _coreset("GraNd", lambda _: coresets.GraNd()),
    "moderate": _coreset("Moderate", lambda _: coresets.Moderate()),
    "ssp": _coreset("SSP", lambda _: coresets.SSP()),
    "prune4rel": _coreset("Prune4ReL", lambda _: coresets.Prune4ReL()),
    "dyn_unc": _coreset("Dyn-Unc", lambda epochs: coresets.DynUnc(_window(epochs))),
    "dual": _coreset("DUAL", lambda epochs: coresets.DUAL(_window(epochs))),
    "dual_beta": _coreset(
        "DUAL, Beta sampling", lambda epochs: coresets.DUAL(_window(epochs), "beta")
    ),
}
IN_BATCH = {
    "divbs": Method("DivBS", keeping=_in_batch(DivBS), is_scored=False),
    "selective_backprop": Method(
        "selective backprop",
        # F is uniform on [0, 1], so F^beta is 1 / (1 + beta) in the mean.
        keeping=_in_batch(lambda kept: SelectiveBackprop(beta=1 / kept - 1)),
        is_scored=False,
    ),
}
DYNAMIC = {
    "dynamic_random": Method(
        "Dynamic Random", keeping=_by_loss(lambda kept: DynamicRandom(1 - kept)), is_scored=False
    ),
    "rs2": Method("RS2", keeping=_by_loss(lambda kept: RS2(1 - kept)), is_scored=False),
    "epsilon_greedy": Method(
        "epsilon-greedy", keeping=_by_loss(lambda kept: EpsilonGreedy(1 - kept))
    ),
    "ucb": Method("UCB", keeping=_by_loss(lambda kept: UCB(1 - kept))),
    "orderdp": Method(
        "OrderDP", keeping=_by_loss(lambda kept: OrderDP(0.75, min(1.0, kept / 0.75)))
    ),
    "tail_sft": Method(
        "TailSFT's filter",
        keeping=lambda kept: DynamicPruningCallback("LossSinceStart", OrderDP(1.0, kept)),
    ),
    "repb": Method(
        "RePB",
        make=lambda parts: DynamicPruningCallback("LastLoss", RePB(), "CenteredLoss"),
        share=0.70,
    ),
    "ies": Method(
        "IES", make=lambda parts: DynamicPruningCallback("LastLoss", IES(0.01)), share=0.78
    ),
    "bls_infobatch": Method(
        "BLS on InfoBatch", make=_on_batch_loss(lambda: InfoBatch(0.5)), share=0.86
    ),
    "bls_seta": Method("BLS on SeTa", make=_on_batch_loss(_seta_policy), share=0.76),
}
PARTS_OF_ALIGNPRUNE = {
    "alignprune_ema_reference": Method(
        "AlignPrune, reference by averaged weights",
        make=_alignprune_with(reference_weights="ema"),
        share=0.82,
    ),
    "alignprune_whole_history": Method(
        "AlignPrune, whole history",
        make=_alignprune_with(lambda: DynamicAlignment(window=None)),
        share=0.82,
    ),
    "alignprune_gated": Method(
        "AlignPrune, gated",
        make=_alignprune_with(lambda: DynamicAlignment(window=25, gate="reference")),
        share=0.82,
    ),
    "alignprune_no_weights": Method(
        "AlignPrune, no weights",
        make=_alignprune_with(policy=lambda: InfoBatch(0.5, rescale="none")),
        share=0.82,
    ),
    "alignprune_to_the_end": Method(
        "AlignPrune, no weights, pruned to the end",
        make=_alignprune_with(policy=lambda: InfoBatch(0.5, rescale="none"), schedule=_TO_THE_END),
        share=0.79,
    ),
    "alignprune_r1": Method(
        "AlignPrune, no weights, r 1, pruned to the end",
        make=_alignprune_with(policy=lambda: InfoBatch(1.0, rescale="none"), schedule=_TO_THE_END),
        share=0.60,
    ),
    "alignprune_whole_history_r1": Method(
        "AlignPrune, whole history, no weights, r 1, pruned to the end",
        make=_alignprune_with(
            lambda: DynamicAlignment(window=None),
            lambda: InfoBatch(1.0, rescale="none"),
            _TO_THE_END,
        ),
        share=0.60,
    ),
}
"""AlignPrune on InfoBatch with its choices changed."""

LOSSES = {
    "gce": _loss("GCE", lambda samples, classes: GeneralizedCrossEntropy()),
    "sce": _loss("SCE", lambda samples, classes: SymmetricCrossEntropy()),
    "elr": _loss("ELR", ELR),
    "sop": _loss("SOP", SOP),
}
AVERAGED = {
    "ema": Method("full training, averaged weights", averages_weights=True, is_scored=False),
}
"""The weights of full training, averaged over the steps, the last epochs counting most."""
