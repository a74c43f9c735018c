"""`SelfCheck`: what is recorded of a step is compared with what the step trains.

Legend: ``B`` samples of a batch.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_debug
from torch import Tensor

from lightning_alignprune.fit.batch_indices import BatchIndices
from lightning_alignprune.fit.untrained_pass import (
    UntrainedPass,
    UntrainedPasses,
    untrained_passes,
)
from lightning_alignprune.functional.row_order import changed_places
from lightning_alignprune.tap.tapped_step import TappedCall, TappedStep
from lightning_alignprune.tap.untapped import Untapped, untapped
from lightning_alignprune.trainer_access.batch_items import TrainItems, keeps_order, widths
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit

# A sum of the same terms, taken in another order, differs by so much of itself in float32.
_LAST_DIGITS = 1e-5
# The same few operations on the same weights differ by less.
_SAME_OPERATIONS = 0.25
# A batch of fewer has no half with another mean.
_FEW = 4
_BY_HAND = (
    'Return {"loss": loss, "sample_loss": losses} with losses of shape (B,) on the graph, or use '
    "signal=BatchLoss(), which needs the batch loss only"
)


class SelfCheck:
    """Before anything is trained, run the step on a batch, and on a part of it in another order.

    What it compares:

    * The order. ``collate_fn`` keeps the order of its items.
    * The rows. The losses that were seen go with the samples when these change places,
      whatever else is in the batch. A ``sample_loss`` of the user's own may depend on others.
    * The value. What was seen, with its coefficients, adds up to the loss that the step returned,
      up to terms that are the same for any samples, such as a penalty on the weights.

    The value is looked at again in the first step of each later epoch, and in each step that calls
    other losses than it, on its own graph; where the loss has another form than before, it is
    compared with a pass of the items of before, and the next step is preceded by the two passes
    again.
    Where nothing can be told, a debug message says why.

    Args:
        fit: The running fit.
        items: What the train loader makes its batches of.
        where: Where a batch says which samples its rows are; None for the order of the items.

    Note:
        Two forward passes of one batch per fit, in eval mode and leaving no trace.
    """

    def __init__(
        self, fit: RunningFit, items: TrainItems, where: BatchIndices | None = None
    ) -> None:
        self._fit, self._items, self._where = fit, items, where
        self._is_due = self._is_first = True
        self._probed: UntrainedPass | None = None
        self._known_form: tuple[str, ...] | None = None
        self._few: list[Any] | None = None  # items of the step's own batch, too few for others
        self._last_items: list[Any] | None = None
        items.want()

    @property
    def has_looked(self) -> bool:
        """Whether the next step is to be compared with the passes before it."""
        return self._probed is not None

    def follow_loader(self, items: TrainItems) -> None:
        """Take items of a train loader that was loaded anew."""
        self._items = items
        if self._is_due:
            items.want()

    def before_step(self, args: Sequence[Any]) -> None:
        """Look at order and rows if that is due.

        Args:
            args: What the step is called with, the batch first.

        Raises:
            MisconfigurationException: If losses would be taken for those of other samples.
        """
        if not self._is_due:
            return
        failure: MisconfigurationException | None = None
        items = self._few or self._items.take()
        if items is not None:
            are_others = self._few is not None or len(items) >= _FEW
            self._is_due, self._few = False, None if are_others else items
            self._last_items = items
            try:
                failure = self._probe(items, args)
            except Exception as error:  # the real step comes next and will say it
                _debug(f"the step cannot be run beforehand: {error!r}")
        if self._is_first:
            # A rank that stops alone would leave the others waiting for it. Later on, whether the
            # loss has another form is for each rank to see.
            self._is_first = False
            num_failures = self._fit.exchange.all_reduce(torch.tensor(int(failure is not None)))
            if int(num_failures) and failure is None:
                raise _of_another_rank()
        if failure is not None:
            raise failure

    def after_step(self, step: TappedStep, args: Sequence[Any]) -> None:
        """Compare what was tapped in a real step with its loss.

        Args:
            step: What the step showed.
            args: What it was called with.

        Raises:
            MisconfigurationException: If the step trains something else beside it.
        """
        loss, probed = step.loss, self._probed
        self._probed = None
        if loss is None or step.user_losses is not None:
            return
        if not step.shows_graph():
            if probed is not None:
                self._compare_passes(loss, probed, step, args)
            return
        found, tolerance = untapped(loss, step.calls), _last_digits(loss)
        if found.form == self._known_form or found.is_nothing(tolerance):
            return
        if probed is None:  # the loss had another form before
            self._compare_with_before(loss, found, step, args)
            self._is_due = True
            self._items.want()
        elif probed.untapped is None:
            _debug(f"{found.rest:.3g} of a loss of {loss.item():.3g} may be a penalty or not")
        elif not found.is_alike(probed.untapped, _SAME_OPERATIONS * tolerance):
            raise _seen_in_part(loss, found, step.calls)
        elif self._few is not None:
            self._is_due = True  # these were the step's own samples: compare with the next ones
        else:
            self._known_form = found.form

    def _compare_passes(
        self, loss: Tensor, probed: UntrainedPass, step: TappedStep, args: Sequence[Any]
    ) -> None:
        """Do what :meth:`after_step` does for a compiled step, which shows no graph of its own.

        One more pass where the loss as it was written holds something beside the tapped losses.
        """
        found, tolerance = probed.untapped, _last_digits(loss)
        if found is None or found.is_nothing(tolerance):
            return
        size = len(probed.items)
        with self._passes(args) as passes:
            other = passes.run((probed.items[: -(-size // 4)] * 4)[:size]).untapped
        if other is not None and not found.is_alike(other, _SAME_OPERATIONS * tolerance):
            raise _seen_in_part(loss, found, step.calls)

    def _compare_with_before(
        self, loss: Tensor, found: Untapped, step: TappedStep, args: Sequence[Any]
    ) -> None:
        """Refuse what is beside the tapped losses in this step and other for the items of before.

        The next step need not have it: a term of the few samples that have a box, say.
        """
        if self._last_items is None:
            return
        try:
            with self._passes(args) as passes:
                before = passes.run(self._last_items).untapped
        except Exception as error:
            _debug(f"the step cannot be run on other items: {error!r}")
            return
        tolerance = _SAME_OPERATIONS * _last_digits(loss)
        if before is not None and not found.is_alike(before, tolerance):
            raise _seen_in_part(loss, found, step.calls)

    def _passes(
        self, args: Sequence[Any], is_eval: bool = True
    ) -> AbstractContextManager[UntrainedPasses]:
        return untrained_passes(self._fit, self._items.collate_fn, self._where, args, is_eval)

    def _probe(self, items: list[Any], args: Sequence[Any]) -> MisconfigurationException | None:
        if isinstance(self._fit.trainer.strategy, ModelParallelStrategy):
            _debug("sharded parameters take part in real passes only")
            return None
        try:
            before, after, order = self._before_and_after(items, args, is_eval=True)
        except Exception as error:  # a detector, say, has losses in train mode only
            _debug(f"the step fails in eval mode ({error!r}), so train mode it is")
            before, after, order = self._before_and_after(items, args, is_eval=False)
        self._probed = before
        if before.names != after.names:
            _debug("the step calls other losses for the same samples")
            return None
        follow = before.follow(after, order)
        is_told = self._where is not None or before.is_mixed or any(follow.values())
        if not is_told and keeps_order(before.raw, after.raw, len(items), order) is False:
            return _reordered()
        if None in follow.values():
            _debug("losses that are all alike, or random numbers in the step")
        wrong = [name for name, verdict in follow.items() if verdict is False]
        return _rows_of_others(wrong, len(items)) if wrong else None

    def _before_and_after(
        self, items: list[Any], args: Sequence[Any], is_eval: bool
    ) -> tuple[UntrainedPass, UntrainedPass, Tensor]:
        """Run the step on the items and on a part of them in another order.

        On all of them where other samples may have a say: in train mode, in the user's own losses,
        or where the step does not run on a part.
        """
        everything = changed_places(len(items))
        with self._passes(args, is_eval) as passes:
            before = passes.run(items)
            may_be_part = is_eval and not before.is_own and len(items) >= _FEW
            part = _part_as_wide(passes, before.raw, items, everything) if may_be_part else None
            if part is not None:
                try:
                    after = passes.run([items[i] for i in part.tolist()])
                except Exception as error:
                    _debug(f"the step fails on a part of a batch: {error!r}")
                else:
                    if after.names == before.names:
                        return before, after, part
            return before, passes.run([items[i] for i in everything.tolist()]), everything


def _part_as_wide(
    passes: UntrainedPasses, raw: Any, items: list[Any], order: Tensor
) -> Tensor | None:
    """Return about half of the items whose batch is padded as the batch of all is."""
    # Of a batch that holds each item twice, both: what is made of all samples is then another.
    distinct = -(-len(order) // 2)
    is_first = order % distinct < -(-distinct // 2)
    if len(order) == _FEW:  # both of one item would have nothing to tell apart
        is_first = torch.arange(_FEW) < _FEW - 1
    for part in (order[is_first], order[~is_first]):
        if widths(passes.collated([items[i] for i in part.tolist()])) == widths(raw):
            return part
    return None


def _last_digits(loss: Tensor) -> float:
    return max(_LAST_DIGITS, 2 * torch.finfo(loss.dtype).eps)


def _debug(reason: str) -> None:
    rank_zero_debug(f"{OWNER}: the self-check cannot tell everything: {reason}")


def _reordered() -> MisconfigurationException:
    return refusal(
        "a collate_fn that keeps the order of its items, so that losses go to their samples",
        "another order for the same items",
        "Let the data set return each sample's index and name its place in the batch by "
        "sample_index=, or do not sort: pack_padded_sequence(enforce_sorted=False) takes any "
        "order. self_check=False trains without this check.",
    )


def _rows_of_others(names: list[str], num_samples: int) -> MisconfigurationException:
    return refusal(
        f"row i of a loss with {num_samples} rows to be sample i's alone",
        f"losses of {', '.join(names)} that change when other samples are in the batch, or do not "
        "change places with the samples",
        f"{_BY_HAND}; self_check=False trains without this check.",
    )


def _seen_in_part(
    loss: Tensor, found: Untapped, calls: Sequence[TappedCall]
) -> MisconfigurationException:
    names = ", ".join(sorted({call.func.__name__ for call in calls})) or "no torch loss function"
    size = f"a loss of {loss.item():.4g}"
    got = f"{size} with {found.rest:.4g} beside {names}, computed from the samples by hand"
    if found.is_nothing(_last_digits(loss)) or found._replace(factors=[]).is_nothing(1e-3):
        got = f"{size} made of {names} times a factor that is computed from the samples"
    return refusal(
        "the losses that can be read to add up to the loss that training_step returns",
        got,
        f"{_BY_HAND}; self_check=False records what can be read and trains.",
    )


def _of_another_rank() -> MisconfigurationException:
    return refusal("a step that passes the self-check", "a refusal on another rank", "See there.")
