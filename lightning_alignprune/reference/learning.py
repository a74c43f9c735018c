"""How a signal learns from the reference pass, alike on every rank."""

from typing import Any

from torch import Tensor

from lightning_alignprune.reference.base import Reference
from lightning_alignprune.scores import Score
from lightning_alignprune.signals import NoLogitsError, ReferenceSamples, Signal
from lightning_alignprune.trainer_access.errors import no_logits, refusal


def learn_from_reference(
    reference: Reference, signal: Signal, score: Score
) -> ReferenceSamples | None:
    """Hand the samples of the last reference pass to the signal; return what it made of them.

    Args:
        reference: The reference, whose samples are taken out of it.
        signal: What is recorded.
        score: How good a sample is; it may need the samples too.

    Raises:
        MisconfigurationException: If the pass did not show what signal or score need.
    """
    samples = reference.take_samples()
    try:
        if samples is None:
            _check_not_needed(signal, score)
            return None
        samples = signal.follow_reference(samples)
    except NoLogitsError as error:
        raise no_logits(signal, error) from None
    # One fit for all: its last bits may differ between machines. And one set of losses: BatchNorm's
    # statistics differ between ranks.
    mine = (samples.losses.cpu(), _on_cpu(signal.learned()))
    losses, state = reference.fit.exchange.from_rank_zero(mine)
    signal.load_learned(state)
    return samples._replace(losses=losses.to(samples.losses.device))


def _check_not_needed(signal: Signal, score: Score) -> None:
    if signal.needs_logits:
        raise NoLogitsError("no finite loss and logits per sample in the reference pass")
    if score.needs_reference_samples:
        raise refusal(
            f"a finite loss per reference sample for {type(score).__name__}",
            "a reference pass that showed none",
            'Return {"loss": loss, "sample_loss": losses} from the step, or use MeanLoss.',
        )


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_on_cpu(part) for part in value)
    return value
