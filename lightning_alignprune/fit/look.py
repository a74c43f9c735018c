"""A look at the samples that an epoch left out: a forward pass, so that they can come back.

Legend: ``M`` samples that are looked at.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_alignprune.fit.step_recorder import Collected, StepRecorder
from lightning_alignprune.pruner import Pruner
from lightning_alignprune.reference.evaluation import evaluated_batches
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.loaders import batch_size_of
from lightning_alignprune.trainer_access.running_fit import RunningFit


def look_at_left_out(fit: RunningFit, pruner: Pruner, recorder: StepRecorder) -> Collected | None:
    """Look at what the epoch that ends has left out; all ranks must call alike.

    The samples are seen as training sees them, in evaluation mode and without gradients. Neither
    module nor random states know of it, nor do the sums of the signal, which are of what was
    trained.

    Args:
        fit: The running fit.
        pruner: Who left them out, and whose signal reads the steps.
        recorder: Reads a step as it does a trained one's.

    Returns:
        What was seen, of all ranks, at positions among the samples whose losses are kept here; None
        if nothing was left out.

    Raises:
        MisconfigurationException: If a step in evaluation mode does not show what is recorded.

    Note:
        A forward pass of the samples, dealt out over the ranks, and three collectives.
    """
    own = _own_part(fit, pruner)
    num_each = max(fit.exchange.united({fit.exchange.rank: len(own)}).values())
    if num_each == 0:
        return None
    # All ranks make as many forward passes: a module may hold collectives.
    padded = torch.cat([own, own.new_zeros(num_each - len(own))])
    sums = {name: value.clone() for name, value in pruner.signal.sums().items()}
    seen = list(_steps(fit, pruner, recorder, padded))
    pruner.signal.load_sums(sums)
    values = torch.cat([each.values.to(own.device).float() for each in seen])
    noted = [each.notes.to(own.device).T for each in seen if each.notes is not None]
    parts = [own, values[: len(own)], *([torch.cat(noted)[: len(own)]] if noted else [])]
    if pruner.shard.is_whole:  # else no other rank keeps losses of these
        parts = fit.exchange.concatenated(*parts)
    return Collected(parts[0], parts[1], parts[2].T if noted else None)


def _own_part(fit: RunningFit, pruner: Pruner) -> Tensor:
    """Return this rank's part of what was left out, positions of shape (M,)."""
    left_out = pruner.left_out().nonzero().flatten()
    exchange = fit.exchange
    return left_out[exchange.rank :: exchange.num_ranks] if pruner.shard.is_whole else left_out


def _steps(
    fit: RunningFit, pruner: Pruner, recorder: StepRecorder, positions: Tensor
) -> Iterator[Collected]:
    (loader,) = access.train_loaders(fit.trainer)
    parts = torch.split(positions, batch_size_of(loader))
    batches = [pruner.indices[part].tolist() for part in parts]
    drawn = access.with_batches(loader, batches)
    with torch.compiler.set_stance("force_eager"):
        found = evaluated_batches(fit, _lent(fit, drawn), plain=pruner.signal.plain_loss)
        for part, evaluated in zip(parts, found, strict=True):
            yield recorder.read_look(evaluated, part)


def _lent(fit: RunningFit, loader: Iterable[Any]) -> Iterator[Any]:
    # A generator: the loader's iterator draws a random number, and must not before the pass begins.
    for batch in loader:
        yield access.as_train_batch(fit.trainer, batch)


def is_due(pruner: Pruner, epoch: int, max_epochs: int | None) -> bool:
    """Say whether the policy asks for a look after ``epoch``; never after the last."""
    every = pruner.policy.look_every if pruner.has_looks else 0
    return every > 0 and epoch % every == 0 and epoch + 1 != max_epochs
