"""How much a policy that keeps an exact share leaves out of an epoch."""

from lightning_alignprune._checks import check_float


def check_prune_fraction(owner: str, prune_fraction: object) -> float:
    """Return the share of samples that is left out of an epoch, in [0, 1).

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.
    """
    remedy = "It is the share of samples left out of an epoch."
    return check_float(owner, "prune_fraction", prune_fraction, low=0, below=1, remedy=remedy)
