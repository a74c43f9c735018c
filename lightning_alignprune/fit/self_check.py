"""`SelfCheck`: what is recorded of a step is compared with what the step trains.

Legend: ``B`` samples of a batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_debug
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_alignprune.fit.batch_indices import BatchIndices
from lightning_alignprune.fit.rng_state import are_same, collect_rng_states
from lightning_alignprune.functional.row_order import changed_places, follow_samples
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import TappedCall, TappedStep
from lightning_alignprune.tap.untapped import untapped_form, untapped_part
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.batch_items import TrainItems, fresh, keeps_order
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit
from lightning_alignprune.trainer_access.snapshot import Snapshot
from lightning_alignprune.trainer_access.traceless import probing, put_back_between

# Of the loss: as exact as a step in bfloat16 is.
_NEGLIGIBLE = 0.01
# A sum of the same terms, taken twice, differs in its last digits.
_LAST_DIGITS = 16
# A batch of fewer has no half with another mean.
_FEW = 4
_BY_HAND = (
    'Return {"loss": loss, "sample_loss": losses} with losses of shape (B,) on the graph, or use '
    "signal=BatchLoss(), which needs the batch loss only"
)


class _Pass(NamedTuple):
    """What a step showed on a batch that is not trained.

    Attributes:
        items: What the batch was made of.
        raw: What ``collate_fn`` made of the items.
        indices: Shape (R,), the samples of the rows, on the CPU, where the batch tells them.
        losses: Name and losses, shape (B,), on the CPU, of each call that feeds the loss.
        precision: Machine epsilon of what they were computed in.
        form: The operations by which the loss reaches parameters past the tapped losses.
        rest: What of the loss was not tapped; None where the graph does not tell.
        scale: What is compared with ``rest``.
        is_mixed: Whether ``collate_fn`` drew random numbers.
        is_random: Whether it or the step did.
    """

    items: list[Any]
    raw: Any
    indices: Tensor | None
    losses: list[tuple[str, Tensor]]
    precision: float
    form: tuple[str, ...]
    rest: float | None
    scale: float
    is_mixed: bool
    is_random: bool

    def follow(self, after: "_Pass", order: Tensor) -> dict[str, bool | None]:
        """Say of each call whether its losses went with the samples; None where nobody can tell."""
        verdicts: dict[str, bool | None] = {}
        pairs: Any = zip(self.losses, after.losses, strict=True)
        if self.indices is not None and after.indices is not None:
            # The batch says itself where its samples are.
            order = torch.arange(len(torch.unique(self.indices)))
            pairs = [
                ((name, _by_sample(losses, self.indices)), (name, _by_sample(moved, after.indices)))
                for (name, losses), (_, moved) in pairs
            ]
        for number, ((name, losses), (_, moved)) in enumerate(pairs, start=1):
            verdict = follow_samples(losses, moved, order, self.precision)
            if verdict is False and self.is_random:
                # Other numbers were drawn for it; what stays in its place is wrong all the same.
                same_place = torch.arange(len(order))
                stays = follow_samples(losses, moved, same_place, self.precision)
                verdict = False if stays else None
            verdicts[f"{name} (call {number})" if len(self.losses) > 1 else name] = verdict
        return verdicts


class SelfCheck:
    """Before anything is trained, run the step on a batch twice: as it is, and in another order.

    What it compares:

    * The order. ``collate_fn`` keeps the order of its items.
    * The rows. The losses that were seen go with the samples when these change places.
    * The value. What was seen, with its coefficients, adds up to the loss that the step returned,
      up to terms that are the same for any samples, such as a penalty on the weights.

    The value is looked at again in the first step of each later epoch, on its own graph; where
    the loss has another form than before, the next step is preceded by the two passes again.
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
        self._is_due = True
        self._probed: _Pass | None = None
        self._known_form: tuple[str, ...] | None = None
        self._few: list[Any] | None = None
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
        items = self._few or self._items.take()
        if items is None:
            return
        are_others = self._few is not None or len(items) >= _FEW
        self._is_due, self._few = False, None if are_others else items
        failure: MisconfigurationException | None = None
        try:
            failure = self._probe(items, args)
        except Exception as error:  # the real step comes next and will say it
            _debug(f"the step cannot be run beforehand: {error!r}")
        # A rank that stops alone would leave the others waiting for it.
        if int(self._fit.exchange.all_reduce(torch.tensor(int(failure is not None)))):
            raise failure or _of_another_rank()

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
        form = untapped_form(loss, step.calls)
        if not form or form == self._known_form:
            return
        rest, scale = untapped_part(loss, step.calls)
        if abs(rest) <= _NEGLIGIBLE * scale:
            return
        if probed is None:  # the loss had another form before
            self._is_due = True
            self._items.want()
        elif probed.rest is None:
            _debug(f"{rest:.3g} of a loss of {loss.item():.3g} may be a penalty or not")
        elif abs(rest - probed.rest) > _last_digits(loss, scale):
            raise _untapped(loss.item(), rest, step.calls)
        elif self._few is not None:
            self._is_due = True  # these were the step's own samples: compare with the next ones
        else:
            self._known_form = form

    def _compare_passes(
        self, loss: Tensor, probed: _Pass, step: TappedStep, args: Sequence[Any]
    ) -> None:
        """Do what :meth:`after_step` does for a compiled step, which shows no graph of its own.

        One more pass where the loss as it was written holds something beside the tapped losses.
        """
        if probed.rest is None or not probed.form or abs(probed.rest) <= _NEGLIGIBLE * probed.scale:
            return
        few = (probed.items[: -(-len(probed.items) // 4)] * 4)[: len(probed.items)]
        (other,) = self._passes([few], args, is_eval=True)
        if other.rest is not None and abs(other.rest - probed.rest) > _last_digits(
            loss, other.scale
        ):
            raise _untapped(loss.item(), probed.rest, step.calls)

    def _probe(self, items: list[Any], args: Sequence[Any]) -> MisconfigurationException | None:
        if isinstance(self._fit.trainer.strategy, ModelParallelStrategy):
            _debug("sharded parameters take part in real passes only")
            return None
        order = changed_places(len(items))
        both = [items, [items[i] for i in order.tolist()]]
        try:
            before, after = self._passes(both, args, is_eval=True)
        except Exception as error:  # a detector, say, has losses in train mode only
            _debug(f"the step fails in eval mode ({error!r}), so train mode it is")
            before, after = self._passes(both, args, is_eval=False)
        self._probed = before
        if len(before.losses) != len(after.losses):
            _debug("the step calls other losses for the same samples")
            return None
        follow = before.follow(after, order)
        is_told = self._where is not None or before.is_mixed or any(follow.values())
        if not is_told and keeps_order(before.raw, after.raw, order) is False:
            return _reordered()
        if None in follow.values():
            _debug("losses that are all alike, or random numbers in the step")
        wrong = [name for name, verdict in follow.items() if verdict is False]
        return _rows_of_others(wrong, len(items)) if wrong else None

    def _passes(self, batches: list[list[Any]], args: Sequence[Any], is_eval: bool) -> list[_Pass]:
        trainer, module, _ = self._fit
        collate_fn, found = self._items.collate_fn, []
        # Compiled code runs as it was written: for eval mode it would be compiled once more.
        with (
            torch.compiler.set_stance("force_eager"),
            probing(trainer, module, is_eval, collate_fn) as snapshot,
        ):
            for items in batches:
                with isolate_rng():  # the same numbers in both passes
                    drawn = _Draws(snapshot)
                    raw = collate_fn(fresh(items))
                    is_mixed = drawn.any()
                    batch = access.to_device(trainer, module, access.as_train_batch(trainer, raw))
                    indices = None if self._where is None else self._where.read(batch).cpu()
                    num_rows = len(items) if indices is None else len(indices)
                    step = self._run(batch, num_rows, args)
                    shown = _shown(step)
                    found.append(_Pass(items, raw, indices, *shown, is_mixed, drawn.any()))
                    del step  # its graph, before the next one is made
                put_back_between(snapshot, module)
        return found

    def _run(self, batch: Any, num_rows: int, args: Sequence[Any]) -> TappedStep:
        module = self._fit.module
        tap = LossTap(torch.arange(num_rows, device=module.device))
        with tap:
            returned = module.training_step(batch, *args[1:])
        loss, own = returned, None
        if isinstance(returned, dict):
            loss, own = returned.get("loss"), returned.get("sample_loss")
        return TappedStep(num_rows, loss if isinstance(loss, Tensor) else None, tap.calls, own)


def _shown(
    step: TappedStep,
) -> tuple[list[tuple[str, Tensor]], float, tuple[str, ...], float | None, float]:
    """Return the fields of a `_Pass` that a step's graph tells."""
    losses = [(call.func.__name__, call.losses.cpu()) for call in step.feeding_calls()]
    if step.user_losses is not None:
        losses = [("sample_loss", step.user_losses.detach().float().cpu())]
    dtypes = [call.logits.dtype for call in step.calls if call.logits.is_floating_point()]
    precision = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
    if step.loss is None or not step.shows_graph():
        return losses, precision, (), None, 0.0
    form = untapped_form(step.loss, step.calls)
    return losses, precision, form, *untapped_part(step.loss, step.calls)


def _by_sample(losses: Tensor, indices: Tensor) -> Tensor:
    """Return the mean loss of each sample that has rows, in the order of their indices."""
    samples, place, counts = torch.unique(indices, return_inverse=True, return_counts=True)
    mean: Tensor = losses.new_zeros(len(samples)).index_add_(0, place, losses) / counts
    return mean


def _last_digits(loss: Tensor, scale: float) -> float:
    return _LAST_DIGITS * torch.finfo(loss.dtype).eps * scale


class _Draws:
    """Tell whether random numbers have been drawn since, from global generators or others."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot, self._before = snapshot, collect_rng_states()

    def any(self) -> bool:
        return self._snapshot.has_drawn() or not are_same(self._before, collect_rng_states())


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
        f"row i of a loss with {num_samples} rows to be sample i's",
        f"losses of {', '.join(names)} that do not change places when the samples do",
        f"{_BY_HAND}; self_check=False trains without this check.",
    )


def _untapped(loss: float, rest: float, calls: Sequence[TappedCall]) -> MisconfigurationException:
    names = ", ".join(sorted({call.func.__name__ for call in calls})) or "no torch loss function"
    return refusal(
        "the losses that can be read to add up to the loss that training_step returns",
        f"a loss of {loss:.4g} with {rest:.4g} beside {names}, computed from the samples by hand",
        f"{_BY_HAND}; self_check=False records what can be read and trains.",
    )


def _of_another_rank() -> MisconfigurationException:
    return refusal("a step that passes the self-check", "a refusal on another rank", "See there.")
