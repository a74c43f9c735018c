"""The one sentence pattern of all refusals of a Trainer, loader, module or step."""

from lightning.pytorch.utilities.exceptions import MisconfigurationException

OWNER = "DynamicPruningCallback"


def refusal(expected: str, got: str, remedy: str, owner: str = OWNER) -> MisconfigurationException:
    """Make the error that says what was expected, what was found and what to do.

    Example:
        >>> print(refusal("one train loader", "2", "Join the sets."))
        DynamicPruningCallback: expected one train loader, got 2. Join the sets.
    """
    return MisconfigurationException(f"{owner}: expected {expected}, got {got}. {remedy}")


def no_logits(signal: object, error: Exception) -> MisconfigurationException:
    """Say what a signal that reads logits needs of a step."""
    return refusal(
        "one classification loss on logits of shape (B, C) with integer labels for "
        f"{type(signal).__name__}",
        str(error),
        "Use signal=SampleLoss(), which works with any loss.",
    )
