"""`AveragedWeights`: an exponential moving average of the weights, to measure the reference with.

In eval mode at a high learning rate a network's loss on held-out samples jumps from epoch to epoch
though the training losses do not; with averaged weights it moves as they do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_alignprune.trainer_access.running_fit import RunningFit
from lightning_alignprune.trainer_access.weights import (
    TrainedTensors,
    has_users_average,
    users_average,
)


class AveragedWeights:
    """Average the trained weights over steps, and lend the average to the module.

    After step t the average holds the weights of step i with a share proportional to
    ``decay ** (t - i)``, the shares adding up to 1 from the first step on: no initial value weighs
    in. ``decay = 1 - 1 / horizon``; with the steps of an epoch as horizon about two thirds of the
    average are the weights under which the epoch's training losses were recorded. Floating-point
    buffers, BatchNorm's statistics among them, are averaged alike; integer ones are the module's.

    Where one of Lightning's ``WeightAveraging`` callbacks runs, its average is taken instead.

    Args:
        fit: The fit whose module is averaged.
        horizon: Steps over which is averaged, at least 1.

    Note:
        One copy of the trained parameters and floating-point buffers, in float32 or finer, in
        checkpoints too; a second one during a pass.
    """

    def __init__(self, fit: RunningFit, horizon: int) -> None:
        self._fit = fit
        self._decay = 1.0 - 1.0 / horizon
        self._num_updates = 0
        self._last_step = fit.trainer.global_step
        self._tensors = TrainedTensors(fit.module)
        self._averages: dict[str, Tensor] = {}
        self._is_users = has_users_average(fit.trainer)
        self.follow_module()

    def follow_module(self) -> None:
        """Take up tensors that are trained from now on; leave out those that no longer are."""
        self._tensors = TrainedTensors(self._fit.module)
        if self._is_users:
            return
        known, self._averages = self._averages, {}
        for name, value in self._tensors.current().items():
            average = known.get(name)
            if average is None or average.shape != value.shape:
                dtype = torch.promote_types(value.dtype, torch.float32)
                average = value.detach().to(dtype, copy=True)
            self._averages[name] = average.to(value.device)

    def after_batch(self) -> None:
        """Take in the weights if the optimizer has stepped since the last call; no host wait."""
        step = self._fit.trainer.global_step
        if self._is_users or step == self._last_step:
            return
        self._last_step = step
        self._num_updates += 1
        if not self._tensors.are_like(self._averages):
            self.follow_module()
        averages = list(self._averages.values())
        values = [
            value.detach().to(average.dtype)
            for value, average in zip(self._tensors.current().values(), averages, strict=True)
        ]
        share = (1.0 - self._decay) / (1.0 - self._decay**self._num_updates)
        if values:
            update = get_ema_multi_avg_fn(1.0 - share)  # type: ignore[no-untyped-call]
            update(averages, values, 0)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Put the average into the module; afterwards its own weights, bit for bit."""
        self.follow_module()
        tensors = self._tensors
        averages = users_average(self._fit.trainer) if self._is_users else self._averages
        if averages is None:  # the user's has not begun
            yield
            return
        exchange = self._fit.exchange
        if exchange.num_ranks > 1:  # each rank has BatchNorm statistics of its own
            own = [name for name in tensors.buffer_names if name in averages]
            buffers = {name: averages[name].cpu() for name in own}
            averages = {**averages, **exchange.from_rank_zero(buffers)}
        with tensors.replaced_by(averages):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the averages, and how many steps they are of."""
        return {
            "num_updates": self._num_updates,
            "last_step": self._last_step,
            "averages": {name: value.clone() for name, value in self._averages.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average; tensors that it lacks begin as the module has them."""
        self._num_updates, self._last_step = state["num_updates"], state["last_step"]
        for name, value in state["averages"].items():
            average = self._averages.get(name)
            if average is not None and average.shape == value.shape:
                average.copy_(value)
