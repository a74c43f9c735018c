"""What was given as ``in_batch``, and whether it goes with signal and policy."""

from lightning_alignprune._checks import resolve
from lightning_alignprune.in_batch.base import BatchChoice
from lightning_alignprune.in_batch.divbs import DivBS
from lightning_alignprune.in_batch.selective_backprop import SelectiveBackprop
from lightning_alignprune.policies import Policy
from lightning_alignprune.signals import Signal

_ALL: tuple[type[BatchChoice], ...] = (DivBS, SelectiveBackprop)
#: The names by which a choice can be given.
BATCH_CHOICES: dict[str, type[BatchChoice]] = {cls.__name__: cls for cls in _ALL}


def find_batch_choice(
    owner: str, given: BatchChoice | str | None, signal: Signal, policy: Policy
) -> BatchChoice | None:
    """Return the choice that was given or named, None if none was.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If the name is unknown, no sample's own loss is recorded, or the policy's
            weights would be lost.
    """
    if given is None:
        return None
    choice = resolve(owner, "in_batch", given, BatchChoice, BATCH_CHOICES)  # type: ignore[type-abstract]
    name = type(choice).__name__
    if signal.weighting == "batch":
        raise ValueError(
            f"{name}: expected a signal of each sample's own loss, got {type(signal).__name__}. "
            'Use signal="SampleLoss".'
        )
    if policy.weighs_samples:
        raise ValueError(
            f"{name}: expected a policy that weights nothing, got {type(policy).__name__}, whose "
            "weights make up for the samples that it leaves out, not for those that are left out "
            "within a batch. Use rescale='none', or policy=DynamicRandom(0.0), which leaves "
            "nothing out of an epoch."
        )
    return choice
