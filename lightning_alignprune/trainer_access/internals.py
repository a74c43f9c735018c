"""Verbs for what the Trainer, its loops and DataLoader keep to themselves.

Checked on Lightning 2.5.0 to 2.6.6. Each access says why it is needed; outside of this folder the
package calls these verbs and never reaches inside.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils._pytree import tree_unflatten
from torch.utils.data import BatchSampler, DataLoader

from lightning_alignprune.state.pruned_batches import PrunedBatches
from lightning_alignprune.state.sampler import PrunedSampler

Loader = DataLoader[Any]


class FitTaps:
    """Wrap four bound methods of one fit as instance attributes, and take the wrappers off again.

    Args:
        trainer: The Trainer whose fit begins.
        on_train_loader: Called with the finished train loader; returns the one to use. It comes
            last, after overfit_batches and sampler injection and before the first ``iter()``.
        on_lengths: Called at the start of every epoch, when a loader's length may have changed.
        around_training_step: Called as ``f(step, *args, **kwargs)`` in place of the step.
        around_validation_step: Likewise.
    """

    def __init__(
        self,
        trainer: Trainer,
        on_train_loader: Callable[[object], object],
        on_lengths: Callable[[], None],
        around_training_step: Callable[..., Any],
        around_validation_step: Callable[..., Any] | None = None,
    ) -> None:
        self._undo: list[tuple[Any, str]] = []
        self._in_setup_data = False
        loop, strategy = trainer.fit_loop, trainer.strategy
        setup_data, process = loop.setup_data, strategy.process_dataloader
        training_step = strategy.training_step

        def wrapped_setup_data() -> None:
            # BatchSizeFinder runs val loaders through process_dataloader while `trainer.training`
            # is true; only this flag says "this is the train loader".
            self._in_setup_data = True
            try:
                setup_data()
            finally:
                self._in_setup_data = False
            on_lengths()

        def wrapped_process_dataloader(dataloader: object) -> object:
            dataloader = process(dataloader)
            return on_train_loader(dataloader) if self._in_setup_data else dataloader

        self._wrap(loop, "setup_data", wrapped_setup_data)
        self._wrap(strategy, "process_dataloader", wrapped_process_dataloader)
        self._wrap(strategy, "training_step", partial(around_training_step, training_step))
        if around_validation_step is not None:
            self._wrap(
                strategy,
                "validation_step",
                partial(around_validation_step, strategy.validation_step),
            )

    def _wrap(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        shadow(owner, name, function)
        self._undo.append((owner, name))

    def remove(self) -> None:
        """Take all wrappers off; safe to call twice."""
        for owner, name in self._undo:
            unshadow(owner, name)
        self._undo.clear()


def shadow(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Shadow a bound method with an instance attribute, past ``nn.Module.__setattr__``."""
    owner.__dict__[name] = function


def unshadow(owner: Any, name: str) -> None:
    """Undo :func:`shadow`."""
    owner.__dict__.pop(name, None)


def global_seed() -> int:
    """Return the seed of ``seed_everything``, which Lightning leaves in the environment, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def callbacks(trainer: Trainer) -> list[Any]:
    """Return the callbacks that run now; a tuner empties the list for its own fits."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def trained_parameters(trainer: Trainer) -> list[torch.nn.Parameter]:
    """Return the parameters that an optimizer of this fit trains."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"]]


def with_sampler(
    loader: Loader, sampler: PrunedSampler, generator: torch.Generator | None = None
) -> Loader:
    """Return a shallow copy of a loader that draws from ``sampler``.

    DataLoader forbids setting its sampler, and a new one would rerun the constructors of
    subclasses. Writing the copy's ``__dict__`` does neither and leaves the user's loader alone.
    Batches come in order, since that is how their samples are known.
    """
    batch_sampler = loader.batch_sampler
    assert batch_sampler is not None
    new = copy.copy(loader)
    attributes = new.__dict__
    attributes["_iterator"] = None
    attributes["sampler"] = sampler
    if isinstance(sampler, PrunedBatches):
        attributes["batch_sampler"] = sampler.batches
    else:
        attributes["batch_sampler"] = BatchSampler(sampler, sampler.batch_size, sampler.drop_last)
    attributes["in_order"] = True
    if generator is not None:
        attributes["generator"] = generator
    return new


def with_batches(loader: Loader, batches: list[list[int]]) -> Loader:
    """Return a shallow copy of a loader that yields the given batches."""
    new = copy.copy(loader)
    new.__dict__.update(_iterator=None, batch_sampler=batches)
    return new


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the train loaders as the loop iterates them.

    ``trainer.train_dataloader`` returns the user's container, not the flattened loaders.
    """
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else combined.flattened


def as_train_batch(trainer: Trainer, batch: Any) -> Any:
    """Put a loader's batch into the container in which the user gave the train loader."""
    combined = trainer.fit_loop._combined_loader
    return batch if combined is None else tree_unflatten([batch], combined._spec)


def num_overfit_batches(trainer: Trainer, loader: Loader) -> int | None:
    """Return how many batches an epoch has that is to be the same every time; None if no such."""
    limit = trainer.overfit_batches  # type: ignore[attr-defined]
    if not limit:
        return None
    return limit if isinstance(limit, int) else max(1, int(len(loader) * limit))


def refresh_epoch_length(trainer: Trainer, num_overfit: int | None = None) -> None:
    """Tell the loop how many batches the train loader has now; Lightning works it out once.

    Left alone, a shrunken epoch never reaches the batch at which it would validate, and an epoch
    that grows back is cut at the old limit.
    https://github.com/Lightning-AI/pytorch-lightning/issues/18023

    Args:
        trainer: The Trainer.
        num_overfit: See :func:`num_overfit_batches`; a share of a shrunken loader would be less.
    """
    loop = trainer.fit_loop
    combined: CombinedLoader | None = loop._combined_loader
    if combined is None:
        return
    limit = trainer.limit_train_batches if num_overfit is None else num_overfit
    length = len(combined.flattened[0])
    if isinstance(limit, int):
        batches = min(length, limit)
    else:
        batches = length if limit == 1.0 else max(1, int(length * limit))
    combined.limits = [batches]
    loop.max_batches = batches
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        return
    interval = trainer.val_check_interval
    if isinstance(interval, float):
        trainer.val_check_batch = max(1, int(batches * interval))
    elif trainer.check_val_every_n_epoch is not None:
        trainer.val_check_batch = min(interval, batches)


def restart_iteration(trainer: Trainer) -> None:
    """Begin the train loader anew, so that a changed order reaches prefetching workers.

    Lightning >= 2.5.3 does not do it on resume:
    https://github.com/Lightning-AI/pytorch-lightning/issues/21938
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    iter(fetcher)


def has_fetched(trainer: Trainer) -> bool:
    """Say whether a tuner left a part-consumed iterator behind."""
    return getattr(trainer.fit_loop._data_fetcher, "fetched", 0) != 0


def epochs_processed(trainer: Trainer) -> int:
    """Number of epochs whose batches are all done; the number of the epoch to run next."""
    current: Any = trainer.fit_loop.epoch_progress.current
    return int(current.processed)


def batches_to_skip(trainer: Trainer) -> int:
    """Batches of the running epoch that a resumed run has behind it.

    Lightning's ``batch_idx`` goes on counting, but the loader restarts at its beginning.
    """
    loop = trainer.fit_loop
    progress = loop.epoch_loop.batch_progress
    if not loop.restarting or (progress.is_last_batch and not is_in_batch(trainer)):
        return 0
    # A checkpoint written in on_train_batch_end comes before "completed" is counted up.
    return int(progress.current.completed) + int(loop.epoch_loop.restarted_on_train_batch_end)


def is_in_batch(trainer: Trainer) -> bool:
    """Say whether a batch has begun and its step is not over.

    A checkpoint written now is of the moment before the batch: a resumed run trains it again.
    """
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(current.processed) < int(current.ready)


def forget_unfinished_last_batch(trainer: Trainer) -> None:
    """Let the loop know that the last batch, in which a checkpoint was written, is to come.

    The flag is saved as soon as the batch is fetched, and ends the epoch if validation has run, as
    the sanity check does.
    """
    if trainer.fit_loop.restarting and is_in_batch(trainer):
        trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False


def show_in_bar(trainer: Trainer, name: str, value: float) -> None:
    """Show a number in the progress bar until another takes its place.

    What ``log`` shows there is read back from the device after every step.
    """
    trainer.progress_bar_metrics[name] = value


def correct_logged(trainer: Trainer, values: dict[str, Any]) -> None:
    """Put values in the place of those logged at the end of the epoch before.

    ``log`` takes none between two epochs. A logger gets them as a later entry of the same step.
    """
    connector = trainer._logger_connector
    new = {name: torch.as_tensor(value) for name, value in values.items()}
    for known in (connector._callback_metrics, connector._logged_metrics):
        known.update(new)
    shown = connector._progress_bar_metrics
    shown.update({name: float(value) for name, value in new.items() if name in shown})
    scalars = {name: float(value) for name, value in new.items()}
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics({**scalars, "epoch": epochs_processed(trainer) - 1}, step=step)


def hold_finished_epoch_length(trainer: Trainer) -> None:
    """Let the loop, which looks at the *next* epoch's length, see that the saved one is over."""
    trainer.fit_loop.max_batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready


def sampler_behind(sampler: Any) -> Any:
    """Return the user's sampler inside Lightning's distributed wrapper of it, else ``sampler``."""
    if isinstance(sampler, DistributedSamplerWrapper):
        wrapped: Any = sampler.dataset
        return wrapped._sampler
    return sampler


def to_device(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """Convert and move a batch as the training loop does."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def looking_like_validation(trainer: Trainer) -> Iterator[None]:
    """Make the Trainer look like validation, so that hooks do not augment."""
    stage = trainer.state.stage
    trainer.validating = True
    try:
        with trainer.precision_plugin.val_step_context():
            yield
    finally:
        trainer.state.stage = stage
