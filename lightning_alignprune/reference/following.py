"""How a signal learns from the reference pass, alike on every rank."""

from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_alignprune.calibrated_loss import NoLogitsError
from lightning_alignprune.rank_exchange import RankExchange
from lightning_alignprune.reference_checks import reference_error
from lightning_alignprune.reference_set import ReferenceSet
from lightning_alignprune.scores import Score
from lightning_alignprune.signals import ReferenceSamples, Signal


def follow_reference(
    reference: ReferenceSet | None,
    signal: Signal,
    score: Score,
    loss: Tensor | None,
    exchange: RankExchange,
) -> ReferenceSamples | None:
    """Hand the samples of the last reference pass to the signal; return what it made of them.

    Args:
        reference: The reference set, whose samples are taken out of it.
        signal: What is recorded.
        score: Who may need the samples.
        loss: The reference loss; None if there was no pass, or none that counts.
        exchange: Brings rank 0's fit to the others.

    Raises:
        MisconfigurationException: If the pass did not show what signal or score need.
    """
    if reference is None or loss is None:
        return None
    samples, reference.samples = reference.samples, None
    try:
        if samples is None:
            if signal.needs_logits:
                raise NoLogitsError("no finite loss and logits per sample in the reference pass")
            if score.needs_reference_samples:
                raise reference_error(
                    f"a finite loss per reference sample for {type(score).__name__}",
                    "a reference pass that showed none",
                    'Return {"loss": loss, "sample_loss": losses} from the step, or use MeanLoss.',
                )
            return None
        samples = signal.follow_reference(samples)
    except NoLogitsError as error:
        raise no_logits(signal, error) from None
    # One fit for all: its last bits may differ between machines. And one set of losses: BatchNorm's
    # statistics differ between ranks.
    mine = (samples.losses.cpu(), _on_cpu(signal.state_dict()))
    losses, state = exchange.from_rank_zero(mine)
    signal.load_state_dict(state)
    return samples._replace(losses=losses.to(samples.losses.device))


def no_logits(signal: Signal, error: NoLogitsError) -> MisconfigurationException:
    """Say what the signal needs of a step."""
    return MisconfigurationException(
        f"DynamicPruningCallback: expected one classification loss on logits of shape (B, C) with "
        f"integer labels for {type(signal).__name__}, got {error}. Use signal=SampleLoss(), which "
        "works with any loss."
    )


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_on_cpu(part) for part in value)
    return value
