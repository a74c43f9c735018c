"""Steps on batches that are not trained, for what they show of their samples' losses.

Legend: ``B`` samples of a batch, ``R`` rows where the batch says which samples they are of.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_alignprune.fit.batch_indices import BatchIndices
from lightning_alignprune.fit.rng_state import are_same, collect_rng_states
from lightning_alignprune.functional.row_order import are_among, follow_samples
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import TappedStep, loss_and_own
from lightning_alignprune.tap.untapped import Untapped, untapped
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.batch_items import fresh
from lightning_alignprune.trainer_access.running_fit import RunningFit
from lightning_alignprune.trainer_access.snapshot import Snapshot
from lightning_alignprune.trainer_access.traceless import probing, put_back_between


class UntrainedPass(NamedTuple):
    """What a step showed on a batch that is not trained.

    Attributes:
        items: What the batch was made of.
        raw: What ``collate_fn`` made of the items.
        indices: Shape (R,), the samples of the rows, on the CPU, where the batch tells them.
        losses: Name and losses, shape (B,), on the CPU, of each call that feeds the loss.
        precision: Machine epsilon of what they were computed in.
        untapped: What of the loss was not tapped; None where the graph does not tell.
        is_own: Whether the losses are the user's own ``sample_loss``.
        is_mixed: Whether ``collate_fn`` drew random numbers.
        is_random: Whether it or the step did.
    """

    items: list[Any]
    raw: Any
    indices: Tensor | None
    losses: list[tuple[str, Tensor]]
    precision: float
    untapped: Untapped | None
    is_own: bool
    is_mixed: bool
    is_random: bool

    @property
    def names(self) -> list[str]:
        """Names of the calls, in their order."""
        return [name for name, _ in self.losses]

    def follow(self, after: "UntrainedPass", order: Tensor) -> dict[str, bool | None]:
        """Say of each call whether its losses went with the samples; None where it cannot be told.

        Args:
            after: The step on items in another order, or on a part of them.
            order: Shape (B',), int64: item ``order[i]`` came i-th.
        """
        verdicts: dict[str, bool | None] = {}
        pairs = zip(self.losses, after.losses, strict=True)
        for number, ((name, losses), (_, moved)) in enumerate(pairs, start=1):
            verdict = self._follows(losses, moved, after, order)
            verdicts[f"{name} (call {number})" if len(self.losses) > 1 else name] = verdict
        return verdicts

    def _follows(
        self, losses: Tensor, moved: Tensor, after: "UntrainedPass", order: Tensor
    ) -> bool | None:
        if self.indices is not None and after.indices is not None:
            # The batch says itself where its samples are.
            samples, losses = _by_sample(losses, self.indices)
            moved_samples, moved = _by_sample(moved, after.indices)
            order = torch.searchsorted(samples, moved_samples)
        verdict = follow_samples(losses, moved, order, self.precision)
        if verdict is False and self.is_random:
            # Other numbers were drawn for it; what stays in its place is wrong all the same, and
            # so are the same losses in places of their own, of a step that shuffles its rows.
            same_place = torch.arange(len(order))
            stays = follow_samples(losses, moved, same_place, self.precision)
            is_wrong = stays or are_among(moved, losses, self.precision)
            verdict = False if is_wrong else None
        return verdict


@contextmanager
def untrained_passes(
    fit: RunningFit,
    collate_fn: Callable[[list[Any]], Any],
    where: BatchIndices | None,
    args: Sequence[Any],
    is_eval: bool = True,
) -> Iterator["UntrainedPasses"]:
    """Yield what runs the step on batches of given items; what that touches is put back.

    Compiled code runs as it was written: for eval mode it would be compiled once more.

    Args:
        fit: The running fit.
        collate_fn: What makes a batch of items.
        where: Where a batch says which samples its rows are; None for the order of the items.
        args: What the step is called with; another batch takes the place of the first.
        is_eval: Whether in eval mode.
    """
    with (
        torch.compiler.set_stance("force_eager"),
        probing(fit.trainer, fit.module, is_eval, collate_fn) as snapshot,
    ):
        yield UntrainedPasses(fit, collate_fn, where, args, snapshot)


class UntrainedPasses(NamedTuple):
    """Steps on batches that are not trained; each begins with the same random states.

    Attributes:
        fit: See :func:`untrained_passes`; ``collate_fn``, ``where`` and ``args`` too.
        snapshot: What puts back what they touch.
    """

    fit: RunningFit
    collate_fn: Callable[[list[Any]], Any]
    where: BatchIndices | None
    args: Sequence[Any]
    snapshot: Snapshot

    def run(self, items: list[Any]) -> UntrainedPass:
        """Run the step on a batch of the items."""
        trainer, module, _ = self.fit
        with self._same_draws() as draws:
            raw = self.collate_fn(fresh(items))
            is_mixed = draws.any()
            batch = access.to_device(trainer, module, access.as_train_batch(trainer, raw))
            indices = None if self.where is None else self.where.read(batch).cpu()
            num_rows = len(items) if indices is None else len(indices)
            shown = _shown(_run(self.fit, (batch, *self.args[1:]), num_rows))
            return UntrainedPass(items, raw, indices, *shown, is_mixed, draws.any())

    def collated(self, items: list[Any]) -> Any:
        """Make a batch of the items."""
        with self._same_draws():
            return self.collate_fn(fresh(items))

    @contextmanager
    def _same_draws(self) -> Iterator["_Draws"]:
        with isolate_rng():
            yield _Draws(self.snapshot)
        put_back_between(self.snapshot, self.fit.module)


def _run(fit: RunningFit, args: Sequence[Any], num_rows: int) -> TappedStep:
    tap = LossTap(torch.arange(num_rows, device=fit.module.device), keeps_given=True)
    with tap:
        returned = fit.module.training_step(*args)
    loss, own = loss_and_own(returned)
    return TappedStep(num_rows, loss if isinstance(loss, Tensor) else None, tap.calls, own)


def _shown(
    step: TappedStep,
) -> tuple[list[tuple[str, Tensor]], float, Untapped | None, bool]:
    """Return the fields of an `UntrainedPass` from ``losses`` to ``is_own``."""
    is_own = step.user_losses is not None
    losses = [(call.func.__name__, call.losses.cpu()) for call in step.feeding_calls()]
    if step.user_losses is not None:
        losses = [("sample_loss", step.user_losses.detach().float().cpu())]
    dtypes = [call.logits.dtype for call in step.calls if call.logits.is_floating_point()]
    precision = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
    is_shown = step.loss is not None and step.shows_graph()
    rest = untapped(step.loss, step.calls) if step.loss is not None and is_shown else None
    return losses, precision, rest, is_own


class _Draws:
    """Tell whether random numbers have been drawn since, from global generators or others."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot, self._before = snapshot, collect_rng_states()

    def any(self) -> bool:
        return self._snapshot.has_drawn() or not are_same(self._before, collect_rng_states())


def _by_sample(losses: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples that have rows, in ascending order, and the mean loss of each."""
    samples, place, counts = torch.unique(indices, return_inverse=True, return_counts=True)
    return samples, losses.new_zeros(len(samples)).index_add_(0, place, losses) / counts
