"""Which Trainers can be pruned; the others are refused by name before the first step."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    XLAStrategy,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

_LOOP_ATTRIBUTES = ("_combined_loader", "_data_fetcher", "epoch_progress", "setup_data")


def check_trainer(trainer: Trainer) -> None:
    """Refuse a Lightning or a strategy that cannot work, naming the way out.

    Raises:
        MisconfigurationException: With the strategy's name, or what this Lightning lacks.
    """
    loop = trainer.fit_loop
    missing = [name for name in _LOOP_ATTRIBUTES if not hasattr(loop, name)]
    if missing:
        raise MisconfigurationException(
            f"DynamicPruningCallback: this Lightning's fit loop has no {', '.join(missing)}. "
            "Use lightning >= 2.5, < 3."
        )
    _check_strategy(trainer.strategy, trainer.world_size)


def _check_strategy(strategy: Strategy, world_size: int) -> None:
    name = type(strategy).__name__
    is_known = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy))
    # These two are DDP strategies to Lightning, with a backward pass or devices of their own.
    if not is_known or isinstance(strategy, (DeepSpeedStrategy, XLAStrategy)):
        raise MisconfigurationException(
            f"DynamicPruningCallback: expected a single device, DDP or FSDP2, got {name}, which is "
            "not tested. Use strategy='ddp', or ModelParallelStrategy with fully_shard."
        )
    if isinstance(strategy, ModelParallelStrategy):
        num_replicas = strategy.distributed_sampler_kwargs["num_replicas"]
        if num_replicas != world_size:
            raise MisconfigurationException(
                f"DynamicPruningCallback: expected data_parallel_size={world_size} and "
                f"tensor_parallel_size=1 in {name}, got {num_replicas} data-parallel of "
                f"{world_size} processes. Processes that share a batch are not tested."
            )
