"""What a NaN or infinite recorded loss does."""

import torch
from torch import Tensor

from lightning_alignprune.state.shard import Shard


class BadLossError(RuntimeError):
    """A recorded loss is NaN or infinite."""


def count_seen(
    running: Tensor, indices: Tensor, shard: Shard, epoch: int, skip_bad: bool = False
) -> int:
    """Count the samples that an epoch saw, and make sure that their losses are finite.

    Args:
        running: Shape (n,), the epoch's losses: NaN where not seen, infinite where NaN or infinite.
            With ``skip_bad`` the infinite ones become NaN in place.
        indices: Shape (n,), int64, data-set indices of the samples.
        shard: Which samples these are; all shards are counted together.
        epoch: The epoch that ended.
        skip_bad: Treat NaN and infinite losses as not observed instead of raising.

    Raises:
        BadLossError: If a loss is NaN or infinite and ``skip_bad`` is off; on every rank.

    Note:
        One host synchronisation; with several shards one collective.
    """
    bad = running.isinf()
    seen = ~running.isnan()
    num_bad: int
    num_seen: int
    num_bad, num_seen = shard.total(torch.stack([bad.sum(), seen.sum()])).tolist()
    if num_bad and not skip_bad:
        here = indices[bad]
        which = f"first for sample {int(here[0])}" if len(here) else "all on other ranks"
        raise BadLossError(
            f"expected finite losses, got NaN or inf for {num_bad} sample(s) in epoch {epoch}, "
            f"{which}. Look at that sample and at the learning rate, or pass "
            "on_nonfinite_loss='skip' to treat such losses as not observed."
        )
    if num_bad:
        running[bad] = torch.nan
    return num_seen
