"""`DynamicPruningCallback`: hooks that connect. No maths, no Trainer internals."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import Dataset
from typing_extensions import Self, Unpack, override

from lightning_alignprune._checks import (
    check_bool,
    check_choice,
    check_instance,
    check_int,
    check_key,
    resolve,
)
from lightning_alignprune.audit import (
    Findings,
    LabelIssues,
    label_issues,
    plot_schedule,
    plot_scores,
    plot_trajectories,
    write_report,
)
from lightning_alignprune.fit.session import FitSession
from lightning_alignprune.functional.alignment import Correlation
from lightning_alignprune.functional.selection import Rescale
from lightning_alignprune.in_batch import BatchChoice, find_batch_choice
from lightning_alignprune.policies import POLICIES, InfoBatch, Policy, SeTa
from lightning_alignprune.presets import (
    OnNonfiniteLoss,
    ReferenceSource,
    RunSettings,
    TrajectoryDevice,
    TrustedSource,
    robust_parts,
)
from lightning_alignprune.pruner import Decision, Parts, Pruner
from lightning_alignprune.reference import PSEUDO, VALIDATION, ReferenceWeights
from lightning_alignprune.schedule import PruningSchedule
from lightning_alignprune.scores import SCORES, DynamicAlignment, Score
from lightning_alignprune.scores.base import check_goes_with
from lightning_alignprune.signals import SIGNALS, BatchLoss, Signal
from lightning_alignprune.state import LossTrajectories, StorageDtype
from lightning_alignprune.state.trusted import TrustedSamples
from lightning_alignprune.trainer_access.errors import OWNER
from lightning_alignprune.trainer_access.internals import show_in_bar
from lightning_alignprune.trainer_access.ranks import PARTITIONS, Partition


class DynamicPruningCallback(Callback):
    """Train each epoch on the samples worth training on, and learn which labels look wrong.

    Records every sample's loss while it trains, compares its course over the epochs with that of
    a clean reference set, and hands the next epoch's selection to the train sampler. Module,
    DataModule and loss function stay as they are. The default is AlignPrune on InfoBatch.

    Args:
        score: How good a sample is: a score object or ``"DynamicAlignment"`` (AlignPrune) or
            ``"LastLoss"`` (InfoBatch, SeTa; also ``"loss"``).
        policy: Which samples train: a policy object or the name of one.
        signal: What is recorded: ``"SampleLoss"``, or ``"BatchLoss"`` where no per-sample loss can
            be had.
        schedule: When pruning happens and how the run finishes.
        reference: A ``DataLoader`` or ``Dataset`` of clean samples held out of training;
            ``"validation"`` to use the losses of the regular validation pass at no cost;
            ``"pseudo"`` (or a ``PseudoClean``) to use the small-loss samples of the training set.
            None looks for a ``reference_dataloader()`` method on the DataModule, then the module;
            where there is none and the score needs a reference, it is the validation pass.
        seed: Seed of the orders and draws. None takes the one of ``seed_everything``, else 0.
        device: Where trajectories live: ``"auto"`` is the training device, ``"cpu"`` for sets
            whose trajectories do not fit there.
        dtype: Storage of the trajectories. Half precision halves memory and checkpoints.
        keep_history: Keep the losses of all epochs in :attr:`trajectories`, for plots and audits.
        on_nonfinite_loss: ``"raise"`` stops at the end of an epoch with a NaN or infinite loss;
            ``"skip"`` treats such a loss as not observed.
        align_lr_schedules: Let LR schedules of ``interval="step"`` follow the share of training
            done, so that they end at their final value although fewer batches ran.
        restore_rng: Keep the states of all random generators in the checkpoint and put them back
            on resume, for runs with dropout or augmentation that must repeat exactly.
        partition: ``"replicated"`` keeps the losses of all samples on every rank; ``"fixed"`` keeps
            on each rank those of a fixed share, which only that rank trains. For sets whose
            trajectories do not fit on one machine; see the page on many GPUs for what it costs.
        self_check: Compare what is recorded with what is trained before the first step, with two
            forward passes of one batch that leave no trace, and refuse what would be recorded
            wrongly: a loss that is only partly seen, rows that are not samples, a ``collate_fn``
            that changes the order.
        sample_index: Key, attribute or position in the batch where the dataset put each sample's
            index, the one that its ``__getitem__`` was called with. With it ``collate_fn`` may
            sort, drop or repeat samples and a batch sampler of your own may make the batches: rows
            of one sample are averaged over the epoch, absent samples stay unobserved. None takes
            samples by their place in the sampler's order.
        trusted: Training samples whose labels are known to be right: dataset indices, or a bool
            mask with an entry per sample. They are in every selection, whatever score, policy and
            schedule say, with the policy's weight where it keeps them too and 1 where it does not.
        reference_weights: What a reference set is measured with: the ``"current"`` weights, or
            ``"ema"``, their exponential moving average over about an epoch's steps. In eval mode at
            a high rate BatchNorm makes a reference loss jump; with averaged weights it does not.
            Takes one copy of the trained parameters, in checkpoints too, and one update per step.
            Training is the same bit for bit.
        in_batch: Which samples of each batch are trained, after a look at all of them: ``"DivBS"``,
            ``"SelectiveBackprop"`` or an object. Goes with policies that weight nothing; see the
            page on more methods for what it saves and what it does not.
        verbose: Say, once each, what the run will do, what its first cut is, and at the end what
            it saved and what to call next.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range or a name unknown.
        MisconfigurationException: Before the first step, if the Trainer, loader or module cannot
            be pruned; the message names the setting and the way out.

    Example:
        >>> callback = DynamicPruningCallback(score="loss")  # plain InfoBatch
        >>> type(callback.policy).__name__
        'InfoBatch'

    Note:
        Logs ``pruning/kept_fraction`` and ``pruning/num_kept`` (what the next epoch trains on; the
        progress bar shows the running epoch's own share),
        ``pruning/pruned_share_so_far``, ``pruning/score_mean``, ``pruning/reference_loss`` and
        ``pruning/scoring_seconds``. A step costs one indexed write and no host wait.
    """

    def __init__(
        self,
        score: Score | str = "DynamicAlignment",
        policy: Policy | str = "InfoBatch",
        signal: Signal | str = "SampleLoss",
        schedule: PruningSchedule | None = None,
        reference: ReferenceSource = None,
        seed: int | None = None,
        device: TrajectoryDevice = "auto",
        dtype: StorageDtype = "float32",
        keep_history: bool = False,
        on_nonfinite_loss: OnNonfiniteLoss = "raise",
        align_lr_schedules: bool = True,
        restore_rng: bool = False,
        partition: Partition = "replicated",
        self_check: bool = True,
        sample_index: int | str | None = None,
        trusted: TrustedSource = None,
        reference_weights: ReferenceWeights = "current",
        in_batch: BatchChoice | str | None = None,
        verbose: bool = True,
    ) -> None:
        self.parts = Parts(
            resolve(OWNER, "signal", signal, Signal, SIGNALS),  # type: ignore[type-abstract]
            resolve(OWNER, "score", score, Score, SCORES),  # type: ignore[type-abstract]
            resolve(OWNER, "policy", policy, Policy, POLICIES),  # type: ignore[type-abstract]
            _schedule_of(schedule),
        )
        check_goes_with(self.parts.signal, self.parts.score, self.parts.policy)
        self.in_batch = find_batch_choice(OWNER, in_batch, self.parts.signal, self.parts.policy)
        if isinstance(reference, str):
            check_choice(OWNER, "reference", reference, (VALIDATION, PSEUDO))
        self.reference = reference
        self.seed = check_int(
            OWNER, "seed", seed, low=0, optional=True, remedy="None takes seed_everything's."
        )
        self.device = check_choice(OWNER, "device", device, get_args(TrajectoryDevice))
        self.dtype = check_choice(OWNER, "dtype", dtype, get_args(StorageDtype))
        self.keep_history = check_bool(OWNER, "keep_history", keep_history)
        self.on_nonfinite_loss = check_choice(
            OWNER, "on_nonfinite_loss", on_nonfinite_loss, get_args(OnNonfiniteLoss)
        )
        self.align_lr_schedules = check_bool(OWNER, "align_lr_schedules", align_lr_schedules)
        self.restore_rng = check_bool(OWNER, "restore_rng", restore_rng)
        self.partition = check_choice(OWNER, "partition", partition, PARTITIONS)
        self.self_check = check_bool(OWNER, "self_check", self_check)
        self.sample_index = check_key(OWNER, "sample_index", sample_index)
        self.trusted = None if trusted is None else TrustedSamples(OWNER, trusted)
        self.reference_weights = check_choice(
            OWNER, "reference_weights", reference_weights, get_args(ReferenceWeights)
        )
        self.verbose = check_bool(OWNER, "verbose", verbose)
        self._session: FitSession | None = None
        self._loaded: dict[str, Any] | None = None
        self._is_for_fit = True

    # ---- presets ----------------------------------------------------------------------------

    @classmethod
    def infobatch(
        cls,
        prune_probability: float = 0.5,
        rescale: Rescale = "expectation",
        schedule: PruningSchedule | None = None,
        **run: Unpack[RunSettings],
    ) -> Self:
        """Make InfoBatch: half of the easy samples are left out of an epoch, the rest count more.

        For clean labels and less time. Needs no reference set.

        Args:
            prune_probability: Chance in [0, 1] that a sample of below-average loss is left out.
            rescale: ``"expectation"`` keeps the expected gradient that of the full set;
                ``"none"`` weights nothing.
            schedule: When; None prunes from epoch 1 on and ends on all samples.
            **run: Arguments of the class that are no part of the method, such as ``seed``.

        Raises:
            TypeError: If a value is of the wrong kind.
            ValueError: If a value is out of range.

        Example:
            >>> callback = DynamicPruningCallback.infobatch(prune_probability=0.3)
            >>> type(callback.score).__name__, callback.policy.prune_probability
            ('LastLoss', 0.3)
        """
        policy = InfoBatch(prune_probability, rescale)
        return cls("LastLoss", policy, "SampleLoss", schedule, **run)

    @classmethod
    def seta(
        cls,
        num_groups: int = 5,
        window_fraction: float = 0.9,
        prune_probability: float = 0.1,
        schedule: PruningSchedule | None = None,
        **run: Unpack[RunSettings],
    ) -> Self:
        """Make SeTa: train on a window of difficulty groups that slides from easy to hard.

        For clean labels and less time. Needs no reference set.

        Args:
            num_groups: Number of groups, at least 1.
            window_fraction: Share of the groups in the window, in (0, 1].
            prune_probability: Share of samples left out at random before grouping, in [0, 1).
            schedule: When; None prunes from epoch 1 on and ends on a random share.
            **run: Arguments of the class that are no part of the method, such as ``seed``.

        Raises:
            TypeError: If a value is of the wrong kind.
            ValueError: If a value is out of range.

        Example:
            >>> DynamicPruningCallback.seta(num_groups=4).policy.num_groups
            4
        """
        policy = SeTa(num_groups, window_fraction, prune_probability)
        return cls("LastLoss", policy, "SampleLoss", schedule, **run)

    @classmethod
    def bls(
        cls,
        alpha: float = 0.9,
        bias_correction: bool = False,
        policy: Policy | str = "InfoBatch",
        schedule: PruningSchedule | None = None,
        **run: Unpack[RunSettings],
    ) -> Self:
        """Make BLS: a policy fed with an EMA of the batch losses, where no sample's loss is known.

        Works with any ``training_step`` that returns a loss. Needs no reference set.

        Args:
            alpha: Share of the old value in the EMA, in [0, 1).
            bias_correction: Whether a seldom-seen sample's EMA is corrected for its start at 0.
            policy: Which samples train; ``"SeTa"`` makes BLS on SeTa.
            schedule: When; None takes the policy's habit.
            **run: Arguments of the class that are no part of the method, such as ``seed``.

        Raises:
            TypeError: If a value is of the wrong kind.
            ValueError: If a value is out of range or a name unknown.

        Example:
            >>> type(DynamicPruningCallback.bls(policy="SeTa").signal).__name__
            'BatchLoss'
        """
        return cls("LastLoss", policy, BatchLoss(alpha, bias_correction), schedule, **run)

    @classmethod
    def alignprune(
        cls,
        reference: ReferenceSource = None,
        window: int | None = 25,
        correlation: Correlation = "pearson",
        policy: Policy | str = "InfoBatch",
        signal: Signal | str = "SampleLoss",
        schedule: PruningSchedule | None = None,
        **run: Unpack[RunSettings],
    ) -> Self:
        """Make AlignPrune: prune by how a sample's loss moves with that of a clean reference set.

        The paper's settings, and what the class gives without arguments. Where labels are wrong
        and a network memorises them, :meth:`robust` goes further.

        Args:
            reference: As in the class.
            window: Number of last epochs compared; None for all. 5 for runs of ten epochs.
            correlation: ``"pearson"`` or ``"cosine"``.
            policy: Which samples train; ``"SeTa"`` makes AlignPrune on SeTa.
            signal: What is recorded; ``"BatchLoss"`` makes AlignPrune on BLS.
            schedule: When; None takes the policy's habit.
            **run: Arguments of the class that are no part of the method, such as ``seed``.

        Raises:
            TypeError: If a value is of the wrong kind.
            ValueError: If a value is out of range or a name unknown.

        Example:
            >>> DynamicPruningCallback.alignprune(window=10).score.window
            10
        """
        score = DynamicAlignment(window, correlation)
        return cls(score, policy, signal, schedule, reference, **run)

    @classmethod
    def robust(
        cls,
        reference: ReferenceSource = None,
        signal: Signal | str | None = None,
        score: Score | str | None = None,
        policy: Policy | str | None = None,
        schedule: PruningSchedule | None = None,
        **run: Unpack[RunSettings],
    ) -> Self:
        """Make the callback for wrong labels and a few hundred clean ones.

        ``LabelOdds`` recorded, ``LabelPosterior`` as score, ``PosteriorCut`` as policy: what is
        probably mislabelled is left out from the epoch on in which the estimated share of wrong
        labels has stopped rising, to the end. Where no wrong labels stand out, all samples train in
        all epochs. Numbers, and where it falls short: the page on the robust preset.

        With ``reference="pseudo"`` there are no clean labels to fit to: then the plain loss is
        recorded, its mean over ten epochs is the score, and two Gaussians make the cut.

        Args:
            reference: As in the class. Clean samples, a few hundred, held out of training, and
                augmented by the same transforms, if training's are.
            signal: Instead of the preset's; None leaves it.
            score: Likewise.
            policy: Likewise.
            schedule: Likewise.
            **run: Arguments of the class that are no part of the method, such as ``seed``.

        Raises:
            TypeError: If a value is of the wrong kind.
            ValueError: If a value is out of range or a name unknown.

        Example:
            >>> callback = DynamicPruningCallback.robust()
            >>> type(callback.signal).__name__, type(callback.policy).__name__
            ('LabelOdds', 'PosteriorCut')
        """
        parts = robust_parts(reference)
        return cls(
            parts.score if score is None else score,
            parts.policy if policy is None else policy,
            parts.signal if signal is None else signal,
            schedule or parts.schedule,
            reference,
            **run,
        )

    # ---- what a run found -------------------------------------------------------------------

    @property
    def signal(self) -> Signal:
        """What is recorded: the object in use during and after a fit, before it the one given."""
        return self.parts.signal if self._pruner is None else self._pruner.signal

    @property
    def score(self) -> Score:
        """How good a sample is: the object in use during and after a fit, before it the given."""
        return self.parts.score if self._pruner is None else self._pruner.score

    @property
    def policy(self) -> Policy:
        """Which samples train: the object in use during and after a fit, before it the given."""
        return self.parts.policy if self._pruner is None else self._pruner.policy

    @property
    def schedule(self) -> PruningSchedule:
        """When pruning happens and how the run finishes."""
        return self.parts.schedule

    @property
    def trajectories(self) -> LossTrajectories:
        """The recorded losses; available from the first epoch on.

        With ``partition="fixed"`` those of this rank's shard: position j is sample
        ``j * R + rank``.

        Raises:
            RuntimeError: Before a fit has begun in this process.
        """
        return self._started().trajectories

    @property
    def decision(self) -> Decision:
        """What the next epoch trains on, and the scores that this rests on.

        Raises:
            RuntimeError: Before a fit has begun in this process.
        """
        return self._started().decision

    def label_issues(self) -> LabelIssues:
        """Return every label that the run has looked at, the most suspicious first.

        The table has given and suggested label, how right the given one looks, whether it counts as
        wrong, since when the sample is cut, and its losses at a few epochs; with it come the matrix
        of given against suggested labels and the estimated share of wrong ones. Needs no
        ``keep_history``. Of a run in another process, or with ``partition="fixed"``, read the
        checkpoint: ``alignprune audit``.

        Returns:
            The issues: ``.table`` (a pandas ``DataFrame`` where pandas is installed), ``.matrix``,
            ``.noise_share``, ``.to_csv(path)`` and more.

        Raises:
            RuntimeError: Before a fit has begun in this process, or with ``partition="fixed"``.
            ValueError: If the score judges no labels; the message names one that does.
        """
        return label_issues(self._findings("label_issues"))

    def report(
        self,
        path: str | Path,
        dataset: Dataset[Any] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Path:
        """Write one HTML page about the run that needs nothing beside it.

        What was pruned when and what that saved, how the losses of kept and cut samples went, the
        scores and their cut, and the most suspicious samples as pictures or texts.

        Args:
            path: Where the page goes.
            dataset: The training set, for the pictures; None takes the one that the Trainer still
                holds, if it does.
            class_names: The classes' names, in the order of their numbers.

        Returns:
            The path.

        Raises:
            ModuleNotFoundError: If the extra ``report`` is not installed.
            RuntimeError: As for :meth:`label_issues`.
        """
        if dataset is None and self._session is not None:
            dataset = self._session.held_dataset()
        return write_report(self._findings("report"), path, dataset, class_names)

    def plot_schedule(self) -> Any:
        """Draw what each epoch trained on; a matplotlib figure (extra ``report``)."""
        return plot_schedule(self._findings("plot_schedule"))

    def plot_trajectories(self) -> Any:
        """Draw the losses of kept and cut samples and of the reference; a matplotlib figure."""
        return plot_trajectories(self._findings("plot_trajectories"))

    def plot_scores(self) -> Any:
        """Draw the scores of kept and cut samples, and where issues begin; a matplotlib figure."""
        return plot_scores(self._findings("plot_scores"))

    def _findings(self, wanted: str) -> Findings:
        pruner = self._started()
        if not pruner.shard.is_whole:
            raise RuntimeError(
                f"{OWNER}.{wanted}: expected the losses of all samples in this process, got those "
                f"of one of {pruner.shard.num_ranks} ranks. Read a checkpoint, which has them all: "
                "alignprune audit, alignprune report."
            )
        return Findings.of_state(pruner.state_dict())

    @property
    def _pruner(self) -> Pruner | None:
        return None if self._session is None else self._session.pruner

    def _started(self) -> Pruner:
        if self._pruner is None:
            raise RuntimeError(
                f"{OWNER}: nothing recorded before a fit in this process. Call Trainer.fit first; "
                "with ddp_spawn or ddp_fork look in a checkpoint, as the workers are gone."
            )
        return self._pruner

    def _running(self) -> FitSession:
        assert self._session is not None, "a hook of a fit ran outside of one"
        return self._session

    # ---- before the first step --------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked and wrap the Trainer's methods for this fit."""
        # Lightning loads a checkpoint's state after this hook, for validate, test and predict too.
        self._is_for_fit = stage == "fit"
        if stage != "fit":
            return
        self._release()
        self._loaded = None  # of a fit that failed before it began
        session = FitSession(self, trainer, pl_module)
        session.go_on_from(self._session)
        self._session = session

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start or resume the state, and let the selection take effect."""
        state, self._loaded = self._loaded, None
        self._running().start(state)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch of steps; the bar shows its share, while loggers get the next epoch's."""
        self._running().start_epoch()
        show_in_bar(trainer, "pruning/kept_fraction", self._started().kept_fraction)

    # ---- the batch path ---------------------------------------------------------------------

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell the tap which samples the batch holds and what they weigh."""
        self._running().before_batch(batch_idx)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the losses of the batch."""
        self._running().after_batch()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the validation pass if it is the reference."""
        if self._is_fitting() and not trainer.sanity_checking:
            self._running().start_validation()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening; of several passes in an epoch the last one counts."""
        if self._is_fitting() and not trainer.sanity_checking:
            self._running().end_validation()

    def _is_fitting(self) -> bool:
        return self._session is not None and self._session.is_running

    # ---- the epoch end ----------------------------------------------------------------------

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the reference set, score, and select the samples of the next epoch."""
        started = time.perf_counter()
        reference = self._running().close_epoch()
        values = self._started().metrics()
        if reference is not None:
            values["reference_loss"] = reference
        values["scoring_seconds"] = seconds = time.perf_counter() - started
        self._started().record.add_overhead(seconds)
        for name, value in values.items():
            pl_module.log(f"pruning/{name}", value, sync_dist=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was saved."""
        self._running().announced().end()

    # ---- state ------------------------------------------------------------------------------

    @override
    def state_dict(self) -> dict[str, Any]:
        """Trajectories, the running epoch, the selection: tensors and primitives only."""
        if self._session is None or self._session.pruner is None:
            return self._loaded or {}
        state = self._session.state_dict()
        return state if self._session.pruner.shard.rank == 0 else {}  # rank 0 has gathered all

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a fit's state until the length of the training set is known."""
        if self._is_for_fit:
            self._loaded = state_dict or None

    def _release(self) -> None:
        if self._session is not None:
            self._session.release()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the wrappers off."""
        self._release()
        self._is_for_fit = True

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the wrappers off: Lightning does not call ``teardown`` after an exception."""
        self._release()
        self._is_for_fit = True


def _schedule_of(given: PruningSchedule | None) -> PruningSchedule:
    remedy = "PruningSchedule(finish=...) says how a run ends."
    found = check_instance(OWNER, "schedule", given, PruningSchedule, optional=True, remedy=remedy)
    return found or PruningSchedule()
