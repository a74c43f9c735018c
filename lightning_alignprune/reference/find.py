"""Which reference a fit has: the argument, a hook, or the validation pass."""

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_alignprune.policies import Policy
from lightning_alignprune.reference.base import Reference
from lightning_alignprune.reference.pseudo_clean import PSEUDO, PseudoClean, PseudoReference
from lightning_alignprune.reference.reference_set import ReferenceSet
from lightning_alignprune.reference.samples import ReferenceWeights, SampleDetail
from lightning_alignprune.reference.validation_pass import (
    VALIDATION,
    ValidationPass,
    why_not_every_epoch,
)
from lightning_alignprune.scores import Score
from lightning_alignprune.signals import Signal
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit

HOOK = "reference_dataloader"


def find_reference(
    given: Any,
    fit: RunningFit,
    signal: Signal,
    score: Score,
    policy: Policy,
    weights: ReferenceWeights = "current",
) -> Reference | None:
    """Find the reference of a fit; None if none is given and none is needed.

    In this order: what is given, a ``reference_dataloader`` hook of the DataModule, then of the
    module, then the validation pass, which is said once.

    Raises:
        MisconfigurationException: If score or signal need a reference and there is none, or if the
            one there is cannot work with them or with this Trainer.
    """
    if given is None and not (score.needs_reference or signal.needs_reference):
        _check_weights(weights, given)
        return None
    source = _found(fit, score, signal) if given is None else given
    _check_weights(weights, source)
    if score.needs_reference_samples and not signal.compares_with_reference:
        raise refusal(
            f"a signal of single samples' losses for {type(score).__name__}",
            f"{type(signal).__name__}, whose values cannot be compared with the reference's losses",
            "Use signal=SampleLoss(), or MeanLoss as score.",
        )
    needs_samples = ((signal, signal.needs_logits), (score, score.needs_reference_samples))
    needed_by = [type(part).__name__ for part, needs in needs_samples if needs]
    if isinstance(source, str) and source == PSEUDO:
        source = PseudoClean()
    if isinstance(source, PseudoClean):
        if needed_by:
            raise refusal(
                f"clean reference samples for {needed_by[0]}",
                f"{type(source).__name__}, which is made of training samples' losses",
                f'Pass a held-out set or "{VALIDATION}", or use SampleLoss and MeanLoss.',
            )
        return PseudoReference(fit, source)
    detail: SampleDetail | None = None
    if needed_by or (policy.uses_reference_scores and signal.compares_with_reference):
        detail = "logits" if signal.needs_logits else "losses"
    if isinstance(source, str):
        return ValidationPass(fit, signal.plain_loss, detail)
    return ReferenceSet(fit, source, signal.plain_loss, detail, weights)


def _check_weights(weights: ReferenceWeights, source: Any) -> None:
    is_set = not (source is None or isinstance(source, (str, PseudoClean)))
    if weights == "current" or is_set:
        return
    got = {
        None: "none, and a score that needs none",
        VALIDATION: f'reference="{VALIDATION}", which is your own pass',
    }.get(source, "a reference made of the training losses")
    raise refusal(
        f'a reference set of its own for reference_weights="{weights}"',
        got,
        f"Pass reference= a DataLoader or Dataset, or define {HOOK}(), or use "
        'reference_weights="current". With Lightning\'s EMAWeightAveraging callback the validation '
        "pass has averaged weights by itself.",
    )


def _found(fit: RunningFit, score: Score, signal: Signal) -> Any:
    owners = (fit.trainer.datamodule, fit.module)  # type: ignore[attr-defined]
    for owner in owners:
        hook = getattr(owner, HOOK, None)
        if callable(hook):
            return hook
    part = score if score.needs_reference else signal
    obstacle = why_not_every_epoch(fit.trainer)
    if obstacle is None:
        rank_zero_info(
            f"{OWNER}: {type(part).__name__} compares with a reference set and none is given, so "
            "the losses of the validation pass are the reference. Its labels should be clean; "
            f"pass reference= or define {HOOK}() for another set."
        )
        return VALIDATION
    raise refusal(
        f"a reference set, which {type(part).__name__} compares samples with",
        f"none, and {obstacle[0]} to take in its place",
        f"Pass reference= a DataLoader or Dataset of clean samples, or define {HOOK}() on the "
        f'DataModule or the module, or pass reference="{VALIDATION}" and validate every epoch, or '
        f'reference="{PSEUDO}" to use the small-loss samples of the training set.',
    )
