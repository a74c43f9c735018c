"""`StepRecorder`: one training step with the tap around it, and the values it gave.

The shell arms it before a batch and collects after; in between it is what runs in place of the
step. It leaves nothing behind when the step raises.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_alignprune._checks import shape_of
from lightning_alignprune.fit.batch_indices import BatchIndices
from lightning_alignprune.fit.in_batch import InBatch, weights_of
from lightning_alignprune.fit.self_check import SelfCheck
from lightning_alignprune.reference.evaluation import EvaluatedBatch
from lightning_alignprune.signals import NoLogitsError, Signal
from lightning_alignprune.state.sample_record import NUM_NOTES
from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.tap.bypass import Bypass
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.step_samples import StepSamples, step_of
from lightning_alignprune.tap.tapped_step import (
    ChangingFactorsError,
    ClippedLossError,
    TappedStep,
    UnseenLossError,
    is_part_of,
    main_call,
)
from lightning_alignprune.tap.usual_factors import UsualFactors
from lightning_alignprune.trainer_access.errors import OWNER, no_logits, refusal

_WAYS_OUT = (
    'Return {"loss": loss, "sample_loss": losses} with losses of shape (B,) on the graph, wrap a '
    "loss function of your own in register_loss, or use signal=BatchLoss(), which needs the batch "
    "loss only."
)
_WAYS_OUT_BY_HAND = (
    'Return {"loss": loss, "sample_loss": losses} with losses of shape (B,) from training_step, '
    "and use a policy that weights nothing, such as InfoBatch(rescale='none')."
)


class Collected(NamedTuple):
    """What was recorded of a batch.

    Attributes:
        indices: Shape (B,), int64, the samples' positions.
        values: Shape (B,), float32.
        notes: Shape (5, B), float32, as :meth:`Signal.label_notes` gives them, or None.
    """

    indices: Tensor
    values: Tensor
    notes: Tensor | None


class StepRecorder:
    """Run training steps under the loss tap and keep what the signal reads from them.

    Args:
        signal: What is read, and how weights are applied.
        is_manual: Whether the module optimises by hand, so that its backward pass is over when
            the step returns.
        rehearse: Called with the indices and the step's arguments before the first step if the
            policy weighs samples; raises if the weighted step cannot work, and returns whether the
            loss is made of a returned ``sample_loss``.
        module: The module whose step it is; layers of it that hold no loss are called past the
            tap. None has the tap see all.

    Attributes:
        takes_notes: Whether the signal is asked what a step says of labels.
        will_weigh: Whether weights are to come; set once the policy is known.
        self_check: What compares the losses that are recorded with those that are trained, or None.
        batch_indices: Where a batch says which samples its rows are; None for the sampler's order.
        in_batch: What chooses among the samples of a batch, or None.
        usual: What makes losses of short batches comparable.
    """

    def __init__(
        self,
        signal: Signal,
        is_manual: bool = False,
        rehearse: Callable[[Tensor, Any, Any], bool | None] | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.signal = signal
        self.is_manual = is_manual
        self._rehearse = None if is_manual else rehearse
        self._module = module
        self._bypass: Bypass | None = None
        self.will_weigh = self.takes_notes = False
        self.self_check: SelfCheck | None = None
        self.batch_indices: BatchIndices | None = None
        self.in_batch: InBatch | None = None
        self._chosen: Tensor | None = None
        self._seed_and_epoch = (0, 0)
        self._weighs_own_losses: bool | None = None  # not known before a step has returned some
        self._indices: Tensor | None = None
        self._weights: Tensor | None = None
        self._values: Tensor | None = None
        self._notes: Tensor | None = None
        self._is_checked = self._is_warned = False
        self._known_calls: list[tuple[Any, bool]] | None = None
        self.usual = UsualFactors()
        self._is_weighting_checked = False
        self._epoch_order: Tensor | None = None
        self._shard = Shard(1)
        self._order = torch.empty(0, dtype=torch.int64)
        self._order_weights: Tensor | None = None
        self._sample_weights: Tensor | None = None
        self._drawn = torch.empty(0, dtype=torch.int64)
        self._is_first_batch = False
        self._batch: Any = None

    def start_epoch(self) -> None:
        """Have the first step of an epoch looked at: a loss may change its form."""
        self._is_checked = False
        self._known_calls = None
        self._bypass = None  # layers may have been replaced

    def arm(
        self, sampler: PrunedSampler, batch_idx: int, weights: Tensor | None, device: torch.device
    ) -> None:
        """Prepare for batch ``batch_idx``; ``weights`` has one per sample kept here.

        The epoch's order goes to the device once, so that a batch costs two slices.
        """
        if self._epoch_order is not sampler.order:
            self._epoch_order, self._shard = sampler.order, sampler.shard
            self._order = sampler.positions.to(device)
            self._order_weights = None if weights is None else weights[self._order]
            self._sample_weights, self._is_first_batch = weights, True
        part = sampler.place(batch_idx)
        if self.batch_indices is not None:
            self._drawn = sampler.order[part]
        self._indices = self._order[part]
        self._weights = None if self._order_weights is None else self._order_weights[part]
        self._values = self._notes = self._chosen = None
        self._seed_and_epoch = sampler.seed, sampler.epoch

    @property
    def is_armed(self) -> bool:
        """Whether a batch has begun whose values were not collected yet."""
        return self._indices is not None

    def collect(self) -> "Collected | None":
        """Return what was recorded of the batch and disarm; None if nothing was observed."""
        indices, values, notes = self._indices, self._values, self._notes
        self._indices = self._weights = self._values = self._notes = self._batch = None
        return None if indices is None or values is None else Collected(indices, values, notes)

    def run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``step``; a fit that did not arm us, such as a tuner's, passes straight through."""
        if self._indices is None:
            with step_of(StepSamples(None)):
                return step(*args, **kwargs)
        if self.batch_indices is not None:
            self._read_indices(self.batch_indices, args[0] if args else None)
        if self.in_batch is not None:
            return self._run_chosen(self.in_batch, self._indices, step, args, kwargs)
        return self._run_whole(self._indices, step, args, kwargs)

    def _run_whole(self, indices: Tensor, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with step_of(StepSamples(self._shard.indices_of(indices), self._weights)):
            if self.signal.weighting == "batch":
                return self._run_batch_weighted(indices, step, args, kwargs)
            return self._run_tapped(indices, step, args, kwargs)

    def _run_chosen(
        self,
        in_batch: InBatch,
        indices: Tensor,
        step: Callable[..., Any],
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Look at the whole batch and record that; train what is chosen of it."""
        is_checked = self._is_checked
        if self._chosen is None:  # LBFGS runs the step again
            looked = self._looked_at(in_batch, indices, args, kwargs)
            if looked is None:
                return self._run_whole(indices, step, args, kwargs)
            self._record(looked)
            samples = self._shard.indices_of(indices)
            self._chosen = in_batch.chosen(looked, samples, *self._seed_and_epoch)
        self._is_checked = is_checked  # of the step that is trained
        part = in_batch.part(args[0], self._chosen, len(indices))
        if part is None:
            self._weights = weights_of(self._chosen, len(indices))
            returned = self._run_whole(indices, step, args, kwargs)
        else:
            returned = self._run_whole(indices[self._chosen], step, (part, *args[1:]), kwargs)
        self._is_checked = True
        return returned

    def _looked_at(
        self, in_batch: InBatch, indices: Tensor, args: Any, kwargs: Any
    ) -> TappedStep | None:
        """Return what the step shows of the whole batch, None if it would skip it."""
        tap = LossTap(indices, with_grad_only=False, plain=self.signal.plain_loss)
        samples = StepSamples(self._shard.indices_of(indices))
        with step_of(samples), in_batch.looking() as step, tap:
            returned = step(*args, **kwargs)
        self._batch = args[0]
        return self._seen_in_look(tap, returned, indices)

    def read_look(self, evaluated: EvaluatedBatch, indices: Tensor) -> "Collected":
        """Return what would be recorded of samples whose step ran in a pass, as if it had trained.

        Args:
            evaluated: The step.
            indices: Shape (B,), int64, where the samples stand among those whose losses are kept.

        Returns:
            The values are NaN where the step asks to skip the batch.

        Raises:
            MisconfigurationException: If the step does not show what the signal records.
        """
        self._batch = evaluated.batch
        step = self._seen_in_look(evaluated.tap, evaluated.returned, indices)
        if step is None:
            missing = torch.full((1 + NUM_NOTES, len(indices)), torch.nan)
            return Collected(indices, missing[0], missing[1:] if self.takes_notes else None)
        return Collected(indices, *self._read_signal(step))

    def _seen_in_look(self, tap: LossTap, returned: Any, indices: Tensor) -> TappedStep | None:
        loss, user_losses = self._read(returned, indices)
        if loss is None:
            return None
        # Without a graph nothing else tells a loss from the metrics beside it.
        main = main_call(tap.calls, loss)
        calls = tap.calls if main is None else [main]
        return TappedStep(len(indices), loss, calls, user_losses, has_graph=False)

    def _run_tapped(self, indices: Tensor, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._rehearse is not None and self.will_weigh:
            self._weighs_own_losses = self._rehearse(indices, args, kwargs)
        self._rehearse = None
        if (check := self.self_check) is not None:
            check.before_step(args)
        is_first = self._known_calls is None
        is_looked_at = check is not None and (not self._is_checked or check.has_looked)
        with self._tap(indices, is_looked_at) as tap, self._past_layers():
            returned = step(*args, **kwargs)
        self._batch = args[0] if args else None
        loss, user_losses = self._read(returned, indices)
        tapped = TappedStep(
            indices.shape[0],
            loss,
            tap.calls,
            user_losses,
            has_graph=not self.is_manual,
            is_first=not self._is_checked,
            usual=self.usual,
        )
        if user_losses is not None:
            returned = self._take_user_losses(returned, user_losses, tapped)
        elif loss is None and not self.is_manual:
            return returned  # the step asked Lightning to skip this batch
        elif loss is not None and not self._is_checked and not is_part_of(loss, tap.calls):
            tapped.calls.clear()  # the torch losses it calls are not what it trains
            self._values = None  # nor is what a look saw
        self._record(tapped)
        self._check_weighting(tapped)
        if is_first:
            self._known_calls = tap.found
        if check is not None and (is_looked_at or tap.found != self._known_calls):
            check.after_step(tapped, args)
        return returned

    def _tap(self, indices: Tensor, is_looked_at: bool) -> LossTap:
        weights = None if self._weighs_own_losses else self._weights
        return LossTap(
            indices,
            weights,
            plain=self.signal.plain_loss,
            keeps_given=is_looked_at,
            known=self._known_calls,
        )

    def _past_layers(self) -> AbstractContextManager[None]:
        if self._module is None:
            return nullcontext()
        if self._bypass is None:
            self._bypass = Bypass(self._module)
        return self._bypass

    def _read_indices(self, where: BatchIndices, batch: Any) -> None:
        device = self._order.device
        self._indices = where.positions(batch, self._drawn, device, self._is_first_batch)
        self._is_first_batch = False
        table = self._sample_weights
        self._weights = None if table is None else table[self._indices]

    def _run_batch_weighted(
        self, indices: Tensor, step: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        returned = step(*args, **kwargs)
        self._batch = args[0] if args else None
        loss, _ = self._read(returned, indices)
        if loss is None and not self.is_manual:
            return returned
        self._record(TappedStep(len(indices), loss))
        if self.is_manual and (self.will_weigh or self._weights is not None):
            raise refusal(
                "weights on a batch loss",
                "manual optimisation, where the backward pass is over before they apply",
                "Use a policy that weights nothing (rescale='none').",
            )
        if self._weights is None or loss is None:
            return returned
        weighted = loss * self._weights.mean().to(loss.dtype)
        return {**returned, "loss": weighted} if isinstance(returned, dict) else weighted

    def _check_weighting(self, tapped: TappedStep) -> None:
        if self._is_weighting_checked or not (self.will_weigh or self._weights is not None):
            return
        self._is_weighting_checked = True
        if not self._weighs_own_losses and tapped.weights_miss_factors():
            raise refusal(
                "a reduction='none' loss whose factors have no gradient of their own, to weight it",
                "factors that are made of the network's output, such as a focal loss's",
                "Detach them, wrap the whole loss function in register_loss, or use a policy that "
                "weights nothing (rescale='none').",
            )

    def _take_user_losses(self, returned: Any, losses: Tensor, tapped: TappedStep) -> Any:
        was_tapped = self._weights is not None and not self._weighs_own_losses
        if self._weighs_own_losses is None:
            self._weighs_own_losses = tapped.is_made_of_user_losses()
        if self.will_weigh or self._weights is not None:
            by_tap = not self._weighs_own_losses and bool(tapped.feeding_calls())
            if not by_tap and not self._weighs_own_losses:
                raise self._no_way_to_weigh(losses)
            if self._weights is not None and not (by_tap or (was_tapped and tapped.calls)):
                weights = self._weights.to(losses.dtype)
                losses.register_hook(lambda grad: grad * weights)  # type: ignore[no-untyped-call]
        return {**returned, "sample_loss": losses.detach()}

    def _no_way_to_weigh(self, losses: Tensor) -> MisconfigurationException:
        reason = "one that the loss is not made of" if losses.requires_grad else "a detached one"
        change = "Compute the loss from it, or use"
        if self.is_manual:
            reason, change = "manual optimisation", "Use"
        return refusal(
            "sample_loss on the graph of the loss, to weight it",
            reason,
            f"{change} a policy that weights nothing (rescale='none').",
        )

    def _record(self, tapped: TappedStep) -> None:
        if self._values is not None:  # LBFGS runs the step again; its first loss is the batch's
            return
        values, notes = self._read_signal(tapped)
        if not self._is_checked:
            if not self._is_warned and tapped.is_reduced_by_hand() and not tapped.reduces_itself():
                self._is_warned = True
                rank_zero_warn(
                    f"{OWNER}: each sample's plain mean of a reduction='none' loss is recorded; "
                    "what the step multiplies it by cannot be seen in manual optimisation, a "
                    "compiled step or the look of in_batch=. If it is masked or scaled, return "
                    '{"loss": loss, "sample_loss": losses}.'
                )
            self._check_values(values, tapped.num_samples)
        self._is_checked = True
        self._values, self._notes = values, notes

    def _read_signal(self, tapped: TappedStep) -> tuple[Tensor, Tensor | None]:
        try:
            return self.signal.read(tapped, self.takes_notes)
        except ChangingFactorsError as error:
            raise refusal(
                f"factors that do not depend on the {error} that they multiply",
                "some that do, such as those of a focal loss with pt = exp(-loss)",
                _WAYS_OUT,
            ) from None
        except ClippedLossError as error:
            raise refusal(
                "losses that the step leaves as they are after they were computed, or masks",
                f"{error}, where a loss is clipped and its gradient does not tell its value",
                _WAYS_OUT,
            ) from None
        except UnseenLossError:
            self._check_rows(tapped.num_samples)
            raise refusal(
                "training_step to show one loss per sample",
                f"{len(tapped.calls)} calls of torch loss functions with {tapped.num_samples} rows "
                "(or more that the step flattens sample after sample) and gradients that feed the "
                "returned loss (a loss inside a reentrant activation checkpoint does not count)",
                _WAYS_OUT_BY_HAND if self.is_manual else _WAYS_OUT,
            ) from None
        except NoLogitsError as error:
            raise no_logits(self.signal, error) from None

    def _check_values(self, values: object, num_samples: int) -> None:
        is_vector = isinstance(values, Tensor) and values.shape == (num_samples,)
        if not is_vector or not values.is_floating_point():  # type: ignore[attr-defined]
            raise refusal(
                f"{type(self.signal).__name__}.values to return floats of shape ({num_samples},), "
                "one for each sample of the batch",
                shape_of(values),
                "Look at the signal.",
            )

    def _check_rows(self, num_samples: int) -> None:
        if self.batch_indices is None:
            _check_all_there(self._batch, num_samples)
        else:
            self.batch_indices.check_rows(self._batch)

    def _read(self, returned: Any, indices: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if isinstance(returned, Tensor):
            return returned, None
        if not isinstance(returned, dict):
            return None, None
        losses = returned.get("sample_loss")
        if losses is not None and (not isinstance(losses, Tensor) or losses.shape != indices.shape):
            self._check_rows(len(indices))
            raise refusal(
                f"sample_loss of shape ({len(indices)},), one loss for each sample of the batch",
                shape_of(losses),
                "Reduce the loss over everything but the batch dimension.",
            )
        return returned.get("loss"), losses


def _check_all_there(batch: Any, num_samples: int) -> None:
    """Refuse a batch whose tensors all have another number of rows than it has samples."""
    leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    rows = {len(leaf) for leaf in leaves}
    if len(rows) == 1 and rows != {num_samples}:
        raise refusal(
            f"a batch of {num_samples} rows, one for each sample that was drawn",
            f"{rows.pop()} rows",
            "Let collate_fn keep every sample: leave broken ones out of the data set, for instance "
            "with torch.utils.data.Subset. Or let the batch say which samples it holds: "
            "sample_index=.",
        )
