"""`StepRecorder`: one training step with the tap around it, and the values it gave.

The shell arms it before a batch and collects after; in between it is what runs in place of the
step. It leaves nothing behind when the step raises.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_alignprune._checks import shape_of
from lightning_alignprune.signals import NoLogitsError, Signal
from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import (
    ChangingFactorsError,
    TappedStep,
    UnseenLossError,
    is_part_of,
)
from lightning_alignprune.trainer_access.errors import OWNER, no_logits, refusal

_WAYS_OUT = (
    'Return {"loss": loss, "sample_loss": losses} with losses of shape (B,) on the graph, or use '
    "signal=BatchLoss(), which needs the batch loss only."
)
_WAYS_OUT_BY_HAND = (
    'Return {"loss": loss, "sample_loss": losses} with losses of shape (B,) from training_step, '
    "and use a policy that weights nothing, such as InfoBatch(rescale='none')."
)


class StepRecorder:
    """Run training steps under the loss tap and keep what the signal reads from them.

    Args:
        signal: What is read, and how weights are applied.
        is_manual: Whether the module optimises by hand, so that its backward pass is over when
            the step returns.
        rehearse: Called with the indices and the step's arguments before the first step if the
            policy weighs samples; raises if the weighted step cannot work.

    Attributes:
        will_weigh: Whether weights are to come; set once the policy is known.
    """

    def __init__(
        self,
        signal: Signal,
        is_manual: bool = False,
        rehearse: Callable[[Tensor, Any, Any], None] | None = None,
    ) -> None:
        self.signal = signal
        self.is_manual = is_manual
        self._rehearse = None if is_manual else rehearse
        self.will_weigh = False
        self._indices: Tensor | None = None
        self._weights: Tensor | None = None
        self._values: Tensor | None = None
        self._is_checked = False
        self._is_weighting_checked = False
        self._epoch_order: Tensor | None = None
        self._order = torch.empty(0, dtype=torch.int64)
        self._order_weights: Tensor | None = None
        self._batch: Any = None

    def arm(
        self, sampler: PrunedSampler, batch_idx: int, weights: Tensor | None, device: torch.device
    ) -> None:
        """Prepare for batch ``batch_idx``; ``weights`` has one per sample kept here.

        The epoch's order goes to the device once, so that a batch costs two slices.
        """
        if self._epoch_order is not sampler.order:
            self._epoch_order = sampler.order
            self._order = sampler.positions.to(device)
            self._order_weights = None if weights is None else weights[self._order]
        part = slice(batch_idx * sampler.batch_size, (batch_idx + 1) * sampler.batch_size)
        self._indices = self._order[part]
        self._weights = None if self._order_weights is None else self._order_weights[part]
        self._values = None

    @property
    def is_armed(self) -> bool:
        """Whether a batch has begun and nobody has collected its values."""
        return self._indices is not None

    def collect(self) -> tuple[Tensor, Tensor] | None:
        """Return ``(indices, values)`` of the batch and disarm; None if nothing was observed."""
        indices, values = self._indices, self._values
        self._indices = self._weights = self._values = self._batch = None
        return None if indices is None or values is None else (indices, values)

    def run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``step``; a fit that did not arm us, such as a tuner's, passes straight through."""
        if self._indices is None:
            return step(*args, **kwargs)
        if self.signal.weighting == "batch":
            return self._run_batch_weighted(self._indices, step, args, kwargs)
        if self._rehearse is not None and self.will_weigh:
            self._rehearse(self._indices, args, kwargs)
        self._rehearse = None
        tap = LossTap(self._indices, self._weights, plain=self.signal.plain_loss)
        with tap:
            returned = step(*args, **kwargs)
        self._batch = args[0] if args else None
        loss, user_losses = _read(returned, self._indices, self._batch)
        tapped = TappedStep(
            len(self._indices),
            loss,
            tap.calls,
            user_losses,
            has_graph=not self.is_manual,
            is_first=not self._is_checked,
        )
        if user_losses is not None:
            returned = self._take_user_losses(returned, user_losses, tapped)
        elif loss is None and not self.is_manual:
            return returned  # the step asked Lightning to skip this batch
        elif loss is not None and not self._is_checked and not is_part_of(loss, tap.calls):
            tapped.calls.clear()  # the torch losses it calls are not what it trains
        self._check_weighting(tapped)
        self._record(tapped)
        return returned

    def _run_batch_weighted(
        self, indices: Tensor, step: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        returned = step(*args, **kwargs)
        self._batch = args[0] if args else None
        loss, _ = _read(returned, indices, self._batch)
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
        if tapped.weights_miss_factors():
            raise refusal(
                "a reduction='none' loss whose factors have no gradient of their own, to weight it",
                "factors that are made of the network's output, such as a focal loss's",
                "Detach them, or use a policy that weights nothing (rescale='none').",
            )

    def _take_user_losses(self, returned: Any, losses: Tensor, tapped: TappedStep) -> Any:
        # Where the tap saw the loss function, the weights are on the graph already.
        if (self.will_weigh or self._weights is not None) and not tapped.calls:
            if self.is_manual or not losses.requires_grad:
                reason = "manual optimisation" if self.is_manual else "a detached sample_loss"
                change = "Use" if self.is_manual else "Compute the loss from it, or use"
                raise refusal(
                    "sample_loss on the graph of the loss, to weight it",
                    reason,
                    f"{change} a policy that weights nothing (rescale='none').",
                )
            if self._weights is not None:
                weights = self._weights.to(losses.dtype)
                losses.register_hook(lambda grad: grad * weights)  # type: ignore[no-untyped-call]
        return {**returned, "sample_loss": losses.detach()}

    def _record(self, tapped: TappedStep) -> None:
        if self._values is not None:  # LBFGS runs the step again; its first loss is the batch's
            return
        try:
            values = self.signal.values(tapped)
        except ChangingFactorsError:
            raise refusal(
                "factors that do not depend on the elements of reduction='none' that they multiply",
                "some that do, such as those of a focal loss with pt = exp(-loss)",
                _WAYS_OUT,
            ) from None
        except UnseenLossError:
            _check_rows(self._batch, tapped.num_samples)
            raise refusal(
                "training_step to show one loss per sample",
                f"{len(tapped.calls)} calls of torch loss functions with {tapped.num_samples} rows "
                "and gradients that feed the returned loss (a loss inside a reentrant activation "
                "checkpoint does not count)",
                _WAYS_OUT_BY_HAND if self.is_manual else _WAYS_OUT,
            ) from None
        except NoLogitsError as error:
            raise no_logits(self.signal, error) from None
        if not self._is_checked:
            if tapped.is_reduced_by_hand() and not tapped.reduces_itself():
                rank_zero_warn(
                    f"{OWNER}: each sample's plain mean of a reduction='none' loss is recorded; "
                    "what the step multiplies it by cannot be seen in manual optimisation or a "
                    'compiled step. If it is masked or scaled, return {"loss": loss, '
                    '"sample_loss": losses}.'
                )
            self._check_values(values, tapped.num_samples)
        self._is_checked = True
        self._values = values

    def _check_values(self, values: object, num_samples: int) -> None:
        is_vector = isinstance(values, Tensor) and values.shape == (num_samples,)
        if not is_vector or not values.is_floating_point():  # type: ignore[attr-defined]
            raise refusal(
                f"{type(self.signal).__name__}.values to return floats of shape ({num_samples},), "
                "one for each sample of the batch",
                shape_of(values),
                "Look at the signal.",
            )


def _check_rows(batch: Any, num_samples: int) -> None:
    """Refuse a batch whose tensors all have another number of rows than it has samples."""
    leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    rows = {len(leaf) for leaf in leaves}
    if len(rows) == 1 and rows != {num_samples}:
        raise refusal(
            f"a batch of {num_samples} rows, one for each sample that was drawn",
            f"{rows.pop()} rows",
            "Let collate_fn keep every sample: leave broken ones out of the data set, for instance "
            "with torch.utils.data.Subset.",
        )


def _read(returned: Any, indices: Tensor, batch: Any) -> tuple[Tensor | None, Tensor | None]:
    if isinstance(returned, Tensor):
        return returned, None
    if not isinstance(returned, dict):
        return None, None
    losses = returned.get("sample_loss")
    if losses is not None and (not isinstance(losses, Tensor) or losses.shape != indices.shape):
        _check_rows(batch, len(indices))
        raise refusal(
            f"sample_loss of shape ({len(indices)},), one loss for each sample of the batch",
            shape_of(losses),
            "Reduce the loss over everything but the batch dimension.",
        )
    return returned.get("loss"), losses
