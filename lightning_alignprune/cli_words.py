"""Words in place of the callback's arguments: ``--pruning false`` and ``--pruning robust``.

jsonargparse takes a word as a value of a registered type.
"""

from typing import Any

from lightning.pytorch import Callback
from typing_extensions import override

from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.presets import robust_parts

_WAYS = f"expected false, robust, or arguments of {DynamicPruningCallback.__name__}"


class PruningOff(Callback):
    """Stands where the pruning callback would be, and does nothing: ``--pruning false``."""


class RobustPruning(DynamicPruningCallback):
    """``--pruning robust``: what :meth:`DynamicPruningCallback.robust` gives.

    The reference is that of a ``reference_dataloader`` hook on the DataModule or the module.
    """

    def __init__(self) -> None:
        super().__init__(**robust_parts(None)._asdict())

    @property
    @override
    def state_key(self) -> str:
        # A run goes on from its checkpoint whichever way the preset is spelled.
        return DynamicPruningCallback.__name__


def register_words(typing: Any) -> None:
    """Teach ``jsonargparse.typing`` the words."""
    for kind, to_yaml, from_yaml in (
        (PruningOff, _off_to_yaml, _off_from_yaml),
        (RobustPruning, _robust_to_yaml, _robust_from_yaml),
    ):
        typing.register_type(kind, to_yaml, from_yaml, fail_already_registered=False)


def _off_to_yaml(value: object) -> bool:
    if not isinstance(value, PruningOff):
        raise ValueError("this is not the switched-off pruning")
    return False


def _off_from_yaml(value: object) -> PruningOff:
    if value is False or (isinstance(value, str) and value.lower() == "false"):
        return PruningOff()
    raise ValueError(_WAYS)


def _robust_to_yaml(value: object) -> str:
    if not isinstance(value, RobustPruning):
        raise ValueError("this is not the robust preset")
    return "robust"


def _robust_from_yaml(value: object) -> RobustPruning:
    if isinstance(value, str) and value.lower() == "robust":
        return RobustPruning()
    raise ValueError(_WAYS)
