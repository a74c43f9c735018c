"""`CoresetRun`: warm-up, choice, a fresh start, and training on what was chosen."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_alignprune._checks import check_choice, check_float, check_int, message, resolve
from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.coreset.methods.base import CoresetMethod, ScoredMethod
from lightning_alignprune.coreset.warmup import CORESETS, CoresetWarmup
from lightning_alignprune.functional.draws import draw_seed
from lightning_alignprune.policies import StaticSubset
from lightning_alignprune.state.index_file import check_suffix, read_indices, write_indices
from lightning_alignprune.trainer_access.internals import global_seed

IfExists = Literal["refuse", "use", "replace"]
IF_EXISTS: tuple[IfExists, ...] = get_args(IfExists)
_OWNER = "CoresetRun"


class CoresetRun:
    """Train on a coreset: warm up on everything, choose, start afresh, train on what was chosen.

    The protocol of the papers, under one Trainer recipe: the subset trains for as many epochs as
    the Trainer says, from the first step on, with weight 1. The passes of the warm-up come on top.

    Args:
        method: A method object, or its name; see :class:`CoresetWarmup`.
        fraction: Share of the samples that is kept, in (0, 1).
        warmup_epochs: Epochs on all samples before the choice; 10 for CIFAR-10 and 30 for
            CIFAR-100 in Prune4ReL's code, 30 of 200 for DUAL.
        path: The file of the indices, ``.npy`` or ``.txt``.
        feature_layer: As in :class:`CoresetWarmup`.
        num_warmups: Over how many warm-ups the scores are averaged, each with draws of its own;
            above 1 for methods with scores only.
        seed: Seed of the draws; None takes the one of ``seed_everything``, else 0.
        if_exists: What to do where ``path`` is there already: ``"refuse"``, ``"use"`` it, which
            skips the warm-up, or ``"replace"`` it.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range, a name unknown, or the warm-up too short.

    Example:
        >>> from functools import partial
        >>> run = CoresetRun("dual", fraction=0.3, warmup_epochs=30, path="coreset.npy")
        >>> recipe = partial(Trainer, max_epochs=200, accelerator="auto")
        >>> # trainer = run.fit(module, datamodule, recipe); trainer.test(datamodule=datamodule)
        >>> type(run.method).__name__
        'DUAL'
    """

    def __init__(
        self,
        method: CoresetMethod | str,
        fraction: float,
        warmup_epochs: int = 10,
        path: str | Path = "coreset.npy",
        feature_layer: str | None = None,
        num_warmups: int = 1,
        seed: int | None = None,
        if_exists: IfExists = "refuse",
    ) -> None:
        self.method = resolve(_OWNER, "method", method, CoresetMethod, CORESETS)  # type: ignore[type-abstract]
        name = type(self.method).__name__
        remedy = "It is the share of the samples that is kept."
        self.fraction = check_float(_OWNER, "fraction", fraction, above=0, below=1, remedy=remedy)
        least = self.method.min_epochs
        remedy = f"{name} looks at {least} epochs at least; a shorter window needs fewer."
        self.warmup_epochs = check_int(
            _OWNER, "warmup_epochs", warmup_epochs, low=least, remedy=remedy
        )
        self.path = check_suffix(_OWNER, "path", path)
        self.feature_layer = feature_layer
        remedy = "One for most methods; ten for EL2N and GraNd in the paper."
        self.num_warmups = check_int(_OWNER, "num_warmups", num_warmups, low=1, remedy=remedy)
        if self.num_warmups > 1 and not self.method.averages_scores:
            constraint = f"to be 1 for {name}, which does not choose by scores alone"
            raise ValueError(message(_OWNER, "num_warmups", constraint, num_warmups, "Use 1."))
        remedy = "None takes seed_everything's."
        self.seed = check_int(_OWNER, "seed", seed, low=0, optional=True, remedy=remedy)
        self.if_exists = check_choice(_OWNER, "if_exists", if_exists, IF_EXISTS)

    def fit(
        self,
        module: LightningModule | Callable[[], LightningModule],
        data: Any,
        make_trainer: Callable[..., Trainer],
        ckpt_path: str | None = None,
    ) -> Trainer:
        """Choose and train.

        Args:
            module: The module, whose weights are as they are to start from: the warm-up trains a
                copy. Or a function that makes one, called once for each training.
            data: A LightningDataModule or a train loader.
            make_trainer: Makes the Trainer of the training, and with ``max_epochs=`` that of the
                warm-up; with callbacks and loggers of its own each time.
            ckpt_path: Resume the training from there; the file of the indices must be there too.

        Returns:
            The Trainer, when training is over.

        Raises:
            FileExistsError: If the file is there and must neither be used nor replaced.
        """
        if ckpt_path is not None:
            read_indices(self.path)  # says what is missing
        else:
            with isolate_rng():  # the training is the same with the warm-up and without it
                self.choose(module, data, make_trainer)
        subset = StaticSubset(indices=self.path)
        callback = DynamicPruningCallback("LastLoss", subset, seed=self.seed)
        trainer = _with_callback(make_trainer(), callback)
        trained = module if isinstance(module, LightningModule) else module()
        trainer.fit(trained, **_data(data), ckpt_path=ckpt_path)
        return trainer

    def choose(
        self,
        module: LightningModule | Callable[[], LightningModule],
        data: Any,
        make_trainer: Callable[..., Trainer],
        ckpt_path: str | None = None,
    ) -> Tensor:
        """Warm up and choose, unless the file is there and may be used.

        Args:
            module: See :meth:`fit`; what is given as a module is left as it is.
            data: See :meth:`fit`.
            make_trainer: See :meth:`fit`; called with ``max_epochs=`` only.
            ckpt_path: Resume the warm-up from there; with one warm-up only.

        Returns:
            Shape (K,), int64, ascending: the samples that are kept.

        Raises:
            FileExistsError: If the file is there and must neither be used nor replaced.
            TypeError: If a module is given where several warm-ups need one each.
        """
        if self.path.exists() and self.if_exists != "replace":
            if self.if_exists == "use":
                return read_indices(self.path)
            remedy = 'if_exists="use" skips the warm-up, if_exists="replace" makes it again.'
            raise FileExistsError(
                message(_OWNER, "path", "to be a new file", str(self.path), remedy)
            )
        if isinstance(module, LightningModule) and self.num_warmups > 1:
            constraint = f"to be a function that makes one, for num_warmups={self.num_warmups}"
            remedy = "Pass a lambda: each warm-up needs weights of its own."
            raise TypeError(message(_OWNER, "module", constraint, type(module), remedy))
        last, found = self._warm_up(module, data, make_trainer, 0, ckpt_path)
        if self.num_warmups == 1:
            return read_indices(self.path)  # of all ranks the one that rank 0 has written
        total = self._scores(found)
        for number in range(1, self.num_warmups):
            last, found = self._warm_up(module, data, make_trainer, number)
            total += self._scores(found)
        return self._chosen_by(total / self.num_warmups, last, found)

    def _warm_up(
        self,
        module: LightningModule | Callable[[], LightningModule],
        data: Any,
        make_trainer: Callable[..., Trainer],
        number: int,
        ckpt_path: str | None = None,
    ) -> tuple[Trainer, CoresetWarmup]:
        warmup = CoresetWarmup(
            self.method,
            self.fraction,
            self.path if self.num_warmups == 1 else None,
            self.feature_layer,
            _seed_of(self.seed, number),
        )
        trainer = _with_callback(make_trainer(max_epochs=self.warmup_epochs), warmup)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            constraint, value = "to make Trainers that run whole epochs", "fast_dev_run"
            remedy = "To try it out, warm up for few epochs on few samples."
            raise ValueError(message(_OWNER, "make_trainer", constraint, value, remedy))
        warmed = copy.deepcopy(module) if isinstance(module, LightningModule) else module()
        trainer.fit(warmed, **_data(data), ckpt_path=ckpt_path)
        return trainer, warmup

    def _scores(self, warmup: CoresetWarmup) -> Tensor:
        assert isinstance(self.method, ScoredMethod)
        if warmup.evidence is None:
            raise RuntimeError(
                f"{_OWNER}: expected the scores of a warm-up in this process, got none. "
                "With ddp_spawn or ddp_fork use num_warmups=1."
            )
        return self.method.scores(warmup.evidence).double().cpu()

    def _chosen_by(self, scores: Tensor, trainer: Trainer, warmup: CoresetWarmup) -> Tensor:
        assert isinstance(self.method, ScoredMethod)
        assert warmup.evidence is not None
        count = max(1, round(self.fraction * len(scores)))
        indices = self.method.choose_by(scores, warmup.evidence, count)
        if trainer.is_global_zero:
            write_indices(self.path, indices)
        return trainer.strategy.broadcast(indices)


def _seed_of(seed: int | None, number: int) -> int | None:
    """Give each warm-up after the first a seed of its own."""
    if number == 0:
        return seed
    return draw_seed(global_seed() if seed is None else seed, number)


def _with_callback(trainer: Trainer, callback: DynamicPruningCallback) -> Trainer:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    others = [type(each).__name__ for each in callbacks if isinstance(each, DynamicPruningCallback)]
    if others:
        constraint = "to make Trainers that prune nothing themselves"
        remedy = "The coreset is the pruning."
        raise ValueError(message(_OWNER, "make_trainer", constraint, ", ".join(others), remedy))
    callbacks.insert(0, callback)  # checkpoint callbacks stay last
    return trainer


def _data(data: Any) -> dict[str, Any]:
    name = "datamodule" if isinstance(data, LightningDataModule) else "train_dataloaders"
    return {name: data}
