"""Step-interval LR schedules that keep their shape while epochs have fewer steps.

A schedule sized by ``trainer.estimated_stepping_batches`` counts full epochs. Stepped once per
batch it would stop half-way when epochs are pruned. Aligned, it follows the share of the epoch
done: after half of a pruned epoch's batches it stands where it would stand after half of a full
one, and at the end of every epoch exactly where full training would have left it.
"""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig

from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.errors import OWNER


def num_scheduler_steps(batches: int, full: int, accumulate: int, frequency: int) -> int:
    """Steps that Lightning makes in the first ``batches`` batches of a full epoch.

    It steps after an optimizer step, if the batch number is a multiple of ``frequency``.

    Example:
        >>> num_scheduler_steps(10, full=10, accumulate=4, frequency=1)
        3
    """
    steps = batches // math.lcm(accumulate, frequency)
    # The last batch of an epoch makes an optimizer step whatever the accumulation.
    if batches == full and full % accumulate and full % frequency == 0:
        steps += 1
    return steps


class ScheduleAlignment:
    """Step the step-interval schedulers of a fit to where the share of training done puts them.

    Takes the module's ``lr_scheduler_step`` over for these schedulers: Lightning's own call and
    ours both mean "reach the target". Real ``step()`` calls are made, one by one, so chained and
    recursive schedulers stay right, and never one past the target.

    Args:
        trainer: The running Trainer.
        module: Its module.
        full_batches: Batches of an unpruned epoch.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, full_batches: int) -> None:
        self._trainer = trainer
        self._module = module
        self.full_batches = full_batches
        self._configs: list[LRSchedulerConfig] = []
        self._epoch_start: list[int] = []
        self._position: list[int] = []
        self._batches_done = 0
        self._global_step = trainer.global_step
        configs = [
            c
            for c in trainer.lr_scheduler_configs
            if c.interval == "step" and not c.reduce_on_plateau
        ]
        if not configs or not module.automatic_optimization or self._ends_by_steps():
            return
        if is_overridden("lr_scheduler_step", module):
            rank_zero_warn(
                f"{OWNER}: the module overrides lr_scheduler_step, so its "
                "step-interval schedules are not aligned with pruned epochs and may end early. "
                "Size them by max_steps, or pass align_lr_schedules=False to silence this."
            )
            return
        self._configs = configs
        self._position = [int(getattr(c.scheduler, "last_epoch", 0)) for c in configs]
        # In mid-epoch, of a run without the callback, a part of the epoch's steps is in them.
        behind = access.batches_to_skip(trainer)
        self._epoch_start = [p - self._steps(i, behind) for i, p in enumerate(self._position)]
        self._step = module.lr_scheduler_step
        access.shadow(module, "lr_scheduler_step", self._lr_scheduler_step)

    def _ends_by_steps(self) -> bool:
        """Say whether steps, not epochs, end the run: then a step is the right clock already."""
        trainer = self._trainer
        if trainer.max_epochs in (None, -1):
            return True
        steps = math.ceil(self.full_batches / trainer.accumulate_grad_batches)
        return 0 <= trainer.max_steps < steps * int(trainer.max_epochs or 0)

    def _target(self, i: int) -> int:
        pruned, done = int(self._trainer.num_training_batches), self._batches_done
        full = self.full_batches
        upto = full if done >= pruned else math.ceil(done * full / pruned)
        return self._epoch_start[i] + self._steps(i, upto)

    def _steps(self, i: int, batches: int) -> int:
        accumulate = self._trainer.accumulate_grad_batches
        return num_scheduler_steps(
            batches, self.full_batches, accumulate, self._configs[i].frequency
        )

    def _reach(self, i: int, metric: Any) -> None:
        target = self._target(i)
        while self._position[i] < target:
            self._position[i] += 1
            self._step(self._configs[i].scheduler, metric)

    def _lr_scheduler_step(self, scheduler: Any, metric: Any = None) -> None:
        for i, config in enumerate(self._configs):
            if config.scheduler is scheduler:
                return self._reach(i, metric)
        return self._step(scheduler, metric)

    def before_batch(self, batch_idx: int) -> None:
        """Note the batch that begins, before Lightning steps."""
        self._batches_done = batch_idx + 1

    def after_batch(self) -> None:
        """Catch up after a real optimizer step, before checkpoints are written."""
        if self._trainer.global_step == self._global_step:
            return
        self._global_step = self._trainer.global_step
        for i in range(len(self._configs)):
            self._reach(i, None)

    def close_epoch(self) -> None:
        """Take the end of the epoch as the start of the next."""
        for i in range(len(self._configs)):
            self._epoch_start[i] += self._steps(i, self.full_batches)

    def state_dict(self) -> dict[str, Any]:
        """Positions of the schedulers."""
        return {"epoch_start": list(self._epoch_start), "position": list(self._position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved positions, if they are of as many schedulers."""
        if len(state["position"]) == len(self._configs):
            self._epoch_start, self._position = list(state["epoch_start"]), list(state["position"])

    def release(self) -> None:
        """Give the module its own ``lr_scheduler_step`` back."""
        access.unshadow(self._module, "lr_scheduler_step")
