"""`ValidationPass`: the regular validation pass as reference, at no cost."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_alignprune.reference.base import Reference
from lightning_alignprune.reference.samples import SampleDetail
from lightning_alignprune.reference.totals import PassTotals
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit

VALIDATION = "validation"


class ValidationPass(Reference):
    """Listen to the losses of validation steps; the last pass of an epoch counts.

    Args:
        fit: The fit that it is the reference of.
        plain: Leave label smoothing out of the loss.
        detail: What a pass keeps sample by sample.

    Raises:
        MisconfigurationException: If validation does not run in every epoch.
    """

    def __init__(
        self, fit: RunningFit, plain: bool = False, detail: SampleDetail | None = None
    ) -> None:
        super().__init__(fit, plain, detail)
        obstacle = why_not_every_epoch(fit.trainer)
        if obstacle is not None:
            raise refusal(f'validation in every epoch for reference="{VALIDATION}"', *obstacle)
        self._running: PassTotals | None = None
        self._measured: Tensor | None = None

    @property
    @override
    def description(self) -> str:
        return "the validation pass"

    @override
    def prepare(self, train_loader: DataLoader[Any]) -> None:
        if sum(self.fit.trainer.num_val_batches) == 0:
            raise refusal(
                f'validation samples for reference="{VALIDATION}"',
                "a validation loader without batches",
                "Hold samples out for validation, or pass reference= a loader of clean samples.",
            )

    @override
    def measure(self) -> Tensor | None:
        measured, self._measured = self._measured, None
        return measured

    @override
    def start_validation(self) -> None:
        self._running = PassTotals(self.detail)

    @override
    def end_validation(self) -> None:
        totals, self._running = self._running, None
        if totals is None or not totals.num_batches:
            return
        exchange = self.fit.exchange
        self._measured = totals.mean(exchange, self.fit.module.device)
        self.keep_samples(totals.samples(exchange if exchange.num_ranks > 1 else None))

    @property
    @override
    def around_validation_step(self) -> Callable[..., Any]:
        return self._validation_step

    def _validation_step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._running is None:
            return step(*args, **kwargs)
        tap = LossTap(with_grad_only=False, plain=self.plain)
        with tap:
            returned = step(*args, **kwargs)
        self._running.add(tap, returned, args[0] if args else kwargs.get("batch"))
        return returned

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "validated": self._measured}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._measured = state.get("validated")


def why_not_every_epoch(trainer: Trainer) -> tuple[str, str] | None:
    """Say what keeps validation from running in every epoch, and what to do; None if it runs."""
    if trainer.limit_val_batches == 0 or not trainer.enable_validation:
        return (
            "a fit without it (limit_val_batches=0, no val_dataloader or no validation_step)",
            "Turn validation on, or pass reference= a loader.",
        )
    if trainer.check_val_every_n_epoch not in (1, None):
        return (
            f"check_val_every_n_epoch={trainer.check_val_every_n_epoch}",
            "Validate every epoch, or pass reference= a loader.",
        )
    return None
