"""Which Trainers can be pruned; the others are refused by name before the first step."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    XLAStrategy,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lightning_alignprune.policies import Policy
from lightning_alignprune.reference import PseudoModerate, is_pseudo
from lightning_alignprune.state.trusted import TrustedSamples
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.ranks import RankExchange

_LOOP_ATTRIBUTES = ("_combined_loader", "_data_fetcher", "epoch_progress", "setup_data")


def check_trainer(trainer: Trainer) -> None:
    """Refuse a Lightning or a strategy that cannot work, naming the way out.

    Raises:
        MisconfigurationException: With the strategy's name, or what this Lightning lacks.
    """
    if not isinstance(trainer, Trainer):
        raise refusal(
            "a Trainer of lightning.pytorch",
            f"one of {type(trainer).__module__.partition('.')[0]}, whose classes are others",
            "Write `import lightning.pytorch as pl` wherever it says `import pytorch_lightning`.",
        )
    loop = trainer.fit_loop
    missing = [name for name in _LOOP_ATTRIBUTES if not hasattr(loop, name)]
    if missing:
        raise MisconfigurationException(
            f"{OWNER}: this Lightning's fit loop has no {', '.join(missing)}. "
            "Use lightning >= 2.5, < 3."
        )
    _check_strategy(trainer.strategy, trainer.world_size)


def check_step(module: LightningModule) -> None:
    """Refuse a step that takes its batches itself.

    Raises:
        MisconfigurationException: If it takes the loader's iterator.
    """
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise refusal(
            "training_step(self, batch, batch_idx)",
            "training_step(self, dataloader_iter), whose batches cannot be told apart",
            "Take the batch as the argument.",
        )


def _check_strategy(strategy: Strategy, world_size: int) -> None:
    name = type(strategy).__name__
    is_known = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy))
    # These two are DDP strategies to Lightning, with a backward pass or devices of their own.
    if not is_known or isinstance(strategy, (DeepSpeedStrategy, XLAStrategy)):
        raise refusal(
            "a single device, DDP or FSDP2",
            f"{name}, which is not tested",
            "Use strategy='ddp', or ModelParallelStrategy with fully_shard.",
        )
    if isinstance(strategy, ModelParallelStrategy):
        num_replicas = strategy.distributed_sampler_kwargs["num_replicas"]
        if num_replicas != world_size:
            raise refusal(
                f"data_parallel_size={world_size} and tensor_parallel_size=1 in {name}",
                f"{num_replicas} data-parallel of {world_size} processes",
                "Processes that share a batch are not tested.",
            )


def check_averages(trainer: Trainer) -> None:
    """Refuse averaged weights where a rank has only a part of each.

    Raises:
        MisconfigurationException: Naming the strategy, and the way out.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy):
        raise refusal(
            "a single device or DDP for reference_weights='ema'",
            f"{type(trainer.strategy).__name__}, whose ranks hold parts of the weights",
            "Use reference_weights='current'.",
        )


def check_order_free(reference: object) -> None:
    """Refuse what takes samples by their order where the batch says which samples it holds.

    Raises:
        MisconfigurationException: Naming the reference, and the way out.
    """
    if isinstance(reference, PseudoModerate):
        raise refusal(
            "a reference that does not rest on the order of rows with sample_index=",
            f"{type(reference).__name__}, which reads the logits of all samples in their order",
            "Use PseudoClean, which needs losses only.",
        )


def check_fixed(policy: Policy, reference: object) -> None:
    """Refuse what needs the losses of all samples in one place.

    Raises:
        MisconfigurationException: Naming the policy or reference, and the way out.
    """
    if not policy.works_on_shares:
        raise refusal(
            "a policy that works on shares with partition='fixed'",
            f"{type(policy).__name__}, which may need the scores of all samples",
            "Use partition='replicated', or set works_on_shares = True on the policy if it adds up "
            "over ranks with context.all_reduce.",
        )
    if is_pseudo(reference):
        name = reference if isinstance(reference, str) else type(reference).__name__
        raise refusal(
            "a reference apart from the training set with partition='fixed'",
            f"reference={name!r}, which ranks the losses of all training samples",
            "Pass a clean reference set or reference='validation', or use partition='replicated'.",
        )


def check_trusted(trusted: TrustedSamples | None, num_samples: int, exchange: RankExchange) -> None:
    """Refuse trusted samples that are not of this training set, or not the same on every rank.

    One collective over several ranks.

    Raises:
        MisconfigurationException: On every rank.
    """
    if trusted is not None:
        try:
            trusted.check_fits(num_samples)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from None
    mine = None if trusted is None else trusted.digest
    if len(set(exchange.united({exchange.rank: mine}).values())) > 1:
        raise refusal(
            "the same trusted samples on every rank",
            "others",
            "Give every rank the indices of the whole training set.",
        )
