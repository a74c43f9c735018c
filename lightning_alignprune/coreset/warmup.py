"""`CoresetWarmup`: a callback that ends an ordinary training with the choice of a coreset."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float, resolve
from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.coreset.evidence import Evidence
from lightning_alignprune.coreset.features import FeatureHook
from lightning_alignprune.coreset.methods.base import CoresetMethod
from lightning_alignprune.coreset.methods.certainty import EL2N, GraNd, SmallLoss, SmallMargin
from lightning_alignprune.coreset.methods.dynamics import DUAL, DynUnc, Forgetting
from lightning_alignprune.coreset.methods.geometry import SSP, Moderate, Prune4ReL
from lightning_alignprune.coreset.scoring import scoring_loader, scoring_pass
from lightning_alignprune.policies import StaticSubset
from lightning_alignprune.presets import TrajectoryDevice
from lightning_alignprune.state import StorageDtype
from lightning_alignprune.state.index_file import check_suffix, write_indices
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.dataset_labels import read_labels
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.ranks import RankExchange
from lightning_alignprune.trainer_access.running_fit import RunningFit

#: The names by which a coreset method can be given, compared without case and underscores.
CORESETS: dict[str, type[CoresetMethod]] = {
    "SmallLoss": SmallLoss,
    "SmallL": SmallLoss,
    "SmallMargin": SmallMargin,
    "Margin": SmallMargin,
    "Forgetting": Forgetting,
    "EL2N": EL2N,
    "GraNd": GraNd,
    "Moderate": Moderate,
    "SSP": SSP,
    "Prune4ReL": Prune4ReL,
    "DynUnc": DynUnc,
    "DUAL": DUAL,
}


class CoresetWarmup(DynamicPruningCallback):
    """Train on every sample as if it were not there; choose a coreset when training ends.

    Nothing is pruned and nothing in module, loss or DataModule changes. During training it records
    what the method looks at; at the end one pass in evaluation mode gives the rest. The pass sees
    the samples of a ``scoring_dataloader()`` method of the DataModule or the module, where there
    is one: the training samples in order, without augmentation. The DataModules of this package
    have it. Else it sees them as training does.

    Args:
        method: A method object, or its name: SmallLoss, SmallMargin, Forgetting, EL2N, GraNd,
            Moderate, SSP, Prune4ReL, DynUnc, DUAL.
        fraction: Share of the samples that the coreset keeps, in (0, 1).
        path: Where the indices go, ``.npy`` or ``.txt``; ``StaticSubset(indices=path)`` reads
            them. None writes nothing.
        feature_layer: Name of the layer whose output the features are, as in
            ``module.named_modules()``; None takes what the last linear layer is given.
        seed: Seed of draws and of the order of equal scores; None takes the one of
            ``seed_everything``, else 0.
        device: Where the recorded epochs live.
        dtype: How they are stored.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range or a name unknown.
        MisconfigurationException: Before the first step, if the run is too short for the method or
            there is no layer of that name; at the end, if a step does not show what it needs.

    Attributes:
        method: The method object.
        indices: Shape (K,), int64, on the CPU, the chosen samples; None before the run has ended.
        evidence: What they were chosen from; None likewise.

    Example:
        >>> warmup = CoresetWarmup("dual", fraction=0.3)
        >>> type(warmup.method).__name__, warmup.indices
        ('DUAL', None)

    Note:
        Memory: 4 bytes a sample and epoch for Forgetting, DynUnc and DUAL (half of it with
        ``dtype="float16"``); 4 d bytes a sample of host memory for Moderate, SSP and Prune4ReL. On
        several ranks each makes the whole pass, and rank 0's choice counts.
    """

    def __init__(
        self,
        method: CoresetMethod | str,
        fraction: float,
        path: str | Path | None = None,
        feature_layer: str | None = None,
        seed: int | None = None,
        device: TrajectoryDevice = "auto",
        dtype: StorageDtype = "float32",
    ) -> None:
        owner = type(self).__name__
        self.method = resolve(owner, "method", method, CoresetMethod, CORESETS)  # type: ignore[type-abstract]
        remedy = "It is the share of the samples that is kept."
        self.fraction = check_float(owner, "fraction", fraction, above=0, below=1, remedy=remedy)
        self.path = None if path is None else check_suffix(owner, "path", path)
        self.feature_layer = feature_layer
        self.indices: Tensor | None = None
        self.evidence: Evidence | None = None
        super().__init__(
            "LastLoss",
            StaticSubset(prune_fraction=0.0),
            self.method.make_signal(),
            seed=seed,
            device=device,
            dtype=dtype,
            keep_history=self.method.needs_rows,
            verbose=False,
        )

    def choose(self, fraction: float | None = None) -> Tensor:
        """Choose anew from what the warm-up found, such as another share of the samples.

        Args:
            fraction: Share that is kept, in (0, 1); None takes the callback's own.

        Returns:
            Shape (K,), int64, ascending.

        Raises:
            RuntimeError: Before the warm-up has ended in this process.
            TypeError: If ``fraction`` is no number.
            ValueError: If it is out of range.
        """
        if self.evidence is None:
            raise RuntimeError(
                f"{type(self).__name__}: nothing to choose from before the warm-up has ended. "
                "Call Trainer.fit first."
            )
        remedy = "It is the share of the samples that is kept."
        share = self.fraction if fraction is None else fraction
        check_float(type(self).__name__, "fraction", share, above=0, below=1, remedy=remedy)
        count = max(1, round(share * self.evidence.num_samples))
        return self.method.choose(self.evidence, count).cpu().sort().values

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what a run of this length can record, then as any run."""
        if stage == "fit":
            self._check_run(trainer, pl_module)
        super().setup(trainer, pl_module, stage)

    def _check_run(self, trainer: Trainer, module: LightningModule) -> None:
        name, needed = type(self.method).__name__, self.method.min_epochs
        max_epochs = trainer.max_epochs
        is_dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        if max_epochs not in (None, -1) and max_epochs < needed and not is_dry:
            raise refusal(
                f"a warm-up of at least {needed} epochs for {name}",
                f"max_epochs={max_epochs}",
                "Warm up longer, or give a method object with a shorter window.",
            )
        if self.method.reads_features:
            FeatureHook(module, self.feature_layer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the scoring pass, choose, and write the indices."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        exchange = RankExchange(trainer)
        self.evidence = self._gathered(RunningFit(trainer, pl_module, exchange))
        # Rank 0's choice counts: passes on several devices may differ in the last digit.
        chosen = self.choose() if exchange.rank == 0 else None
        if self.path is not None and chosen is not None:
            write_indices(self.path, chosen)  # before other ranks go on and read it
        self.indices = exchange.from_rank_zero(chosen)
        if self.path is not None:
            num_kept, num_samples = len(self.indices), self.evidence.num_samples
            rank_zero_info(
                f"{type(self).__name__}: {self.path} holds {num_kept} of {num_samples} samples, "
                f"chosen by {type(self.method).__name__}."
            )

    def _gathered(self, fit: RunningFit) -> Evidence:
        (train_loader,) = access.train_loaders(fit.trainer)
        pruner, method = self._started(), self.method
        rows = pruner.trajectories.rows if method.needs_rows else []
        found = Evidence(pruner.shard.num_samples, rows, seed=pruner.seed)
        labels: Any = read_labels(train_loader.dataset)
        if not method.needs_pass:
            return found._replace(labels=labels)
        seen = scoring_pass(fit, scoring_loader(fit, train_loader), method, self.feature_layer)
        return found._replace(
            values=seen.values,
            labels=labels if seen.labels is None else seen.labels,
            features=seen.features,
        )
