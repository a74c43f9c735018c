"""`InBatch`: a look at each batch before it is trained, and the part of it that is.

Legend: ``B`` samples of a batch, ``M`` of them that are chosen, ``C`` classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_alignprune.in_batch import BatchChoice, BatchLook
from lightning_alignprune.tap.tapped_step import TappedStep, is_classification, main_call
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit
from lightning_alignprune.trainer_access.traceless import looking


class InBatch:
    """Choose within batches: which samples are worth a gradient, seen from a forward pass of all.

    Args:
        fit: The running fit.
        choice: The rule.

    Raises:
        MisconfigurationException: If the module optimises by hand, or its parameters are sharded.

    Attributes:
        num_seen: How many samples this rank has looked at.
        num_trained: How many of them were chosen.

    Note:
        One forward pass of the batch in eval mode, without gradients and leaving no trace.
    """

    def __init__(self, fit: RunningFit, choice: BatchChoice) -> None:
        if not fit.module.automatic_optimization:
            raise refusal(
                "automatic optimisation for in_batch=",
                "manual optimisation, where a step cannot be run on a part of its batch first",
                "Leave in_batch out, or let Lightning call backward.",
            )
        if isinstance(fit.trainer.strategy, ModelParallelStrategy):
            raise refusal(
                "one process or DDP for in_batch=",
                "ModelParallelStrategy, whose parameters take part in real passes only",
                "Use strategy='ddp', or leave in_batch out.",
            )
        self._fit, self.choice = fit, choice
        self.num_seen = self.num_trained = 0
        self._is_warned = False
        self._features: dict[torch.Size, Tensor] = {}  # what a layer got, by its output's shape
        self._losses: Tensor | None = None

    @contextmanager
    def looking(self) -> Iterator[Callable[..., Any]]:
        """Lend a step to run on the whole batch without a trace; note what its last layer gets."""
        self._features.clear()
        layers = self._fit.module.modules() if self.choice.needs_features else ()
        hooks = [x.register_forward_hook(self._note) for x in layers if isinstance(x, nn.Linear)]
        try:
            with looking(self._fit.trainer, self._fit.module):
                yield self._fit.module.training_step
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if args:
            self._features[output.shape] = args[0]

    def chosen(self, step: TappedStep, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Return the places of the samples to train, shape (M,), int64, ascending.

        Args:
            step: What the look showed.
            indices: Shape (B,), int64, the samples' indices in the data set.
            seed: The run's seed.
            epoch: The epoch.

        Raises:
            MisconfigurationException: If the choice needs features and the step shows none.
        """
        self._losses = step.sample_losses()
        look = BatchLook(self._losses, indices, seed, epoch)
        if self.choice.needs_features:
            look = self._with_features(look, step)
        self._features.clear()
        chosen = self.choice.choose(look)
        self.num_seen += len(indices)
        self.num_trained += len(chosen)
        return chosen

    def _with_features(self, look: BatchLook, step: TappedStep) -> BatchLook:
        call = main_call(step.calls, step.loss)
        if call is None or not is_classification(call):
            found = f"{len(step.calls)} loss calls, none of which alone makes the loss so"
        else:
            features = self._features.get(call.logits.shape)
            if features is not None:
                return look._replace(logits=call.logits, labels=call.target, features=features)
            found = f"no nn.Linear with an output of shape {tuple(call.logits.shape)}"
        raise refusal(
            f"one classification loss, of logits (B, C) that an nn.Linear makes, for "
            f"{type(self.choice).__name__}",
            found,
            'Use in_batch="SelectiveBackprop", which needs losses only.',
        )

    def part(self, batch: Any, places: Tensor, num_samples: int) -> Any | None:
        """Return the batch of some of its samples; None, said once, where it cannot be cut."""
        leaves, spec = tree_flatten(batch)
        if all(_has_rows(leaf, num_samples) for leaf in leaves):
            cut = [leaf if leaf is None else leaf[places.to(leaf.device)] for leaf in leaves]
            return tree_unflatten(cut, spec)
        if not self._is_warned:
            self._is_warned = True
            others = sorted({_named(x) for x in leaves if not _has_rows(x, num_samples)})
            rank_zero_warn(
                f"{OWNER}: {type(self.choice).__name__} cannot cut this batch, which holds "
                f"{', '.join(others)} beside tensors of {num_samples} rows. What is not chosen has "
                "weight 0: it is forwarded and goes through the backward pass and BatchNorm like "
                "the rest, and no time is saved. Make batches of tensors with a row per sample."
            )
        return None

    def state_dict(self) -> dict[int, Any]:
        """Return what this rank's choice has learned, by rank."""
        return {self._fit.exchange.rank: self.choice.state_dict()}

    def load_state_dict(self, by_rank: dict[int, Any] | None) -> None:
        """Go on from a saved state, if there is one; a rank that was not there, from another's."""
        if by_rank:
            rank = self._fit.exchange.rank
            self.choice.load_state_dict(by_rank.get(rank, next(iter(by_rank.values()))))

    def after_batch(self) -> None:
        """Let the choice take in the losses of a batch that is over."""
        losses, self._losses = self._losses, None
        if losses is not None:
            self.choice.follow(losses)


def weights_of(places: Tensor, num_samples: int) -> Tensor:
    """Return weights with which a mean over B samples is that over some: B / M, and 0.

    Example:
        >>> weights_of(torch.tensor([0, 3]), 4).tolist()
        [2.0, 0.0, 0.0, 2.0]
    """
    weights = torch.zeros(num_samples, device=places.device)
    return weights.index_fill_(0, places, num_samples / len(places))


def _has_rows(leaf: Any, num_samples: int) -> bool:
    if leaf is None:
        return True
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == num_samples


def _named(leaf: Any) -> str:
    kind = type(leaf).__name__
    return f"a {kind} of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else f"a {kind}"
