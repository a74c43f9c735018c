"""The tensors that training moves on a module, and the average that Lightning may keep of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer, callbacks
from torch import Tensor, nn

# Since Lightning 2.6.
_WEIGHT_AVERAGING: Any = getattr(callbacks, "WeightAveraging", ())


class TrainedTensors:
    """Trainable parameters and floating-point buffers of a module, by name.

    Holds where they are kept, not the tensors, since a step may put another tensor in the place of
    a buffer; reading them so costs nothing like a walk through the module.

    Args:
        module: The module.

    Attributes:
        buffer_names: The names of the buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: dict[str, tuple[dict[str, Any], str]] = {}
        self.buffer_names: list[str] = []
        seen: set[int] = set()  # tied parameters are one
        for path, part in module.named_modules():
            prefix = f"{path}." if path else ""
            for key, parameter in part._parameters.items():
                if parameter is None or nn.parameter.is_lazy(parameter) or id(parameter) in seen:
                    continue
                if parameter.requires_grad:
                    seen.add(id(parameter))
                    self._places[prefix + key] = (part._parameters, key)
            for key, buffer in part._buffers.items():
                if buffer is None or nn.parameter.is_lazy(buffer) or id(buffer) in seen:
                    continue
                if buffer.is_floating_point():
                    seen.add(id(buffer))
                    self._places[prefix + key] = (part._buffers, key)
                    self.buffer_names.append(prefix + key)

    def current(self) -> dict[str, Tensor]:
        """Return the tensors as they are now."""
        return {name: owner[key] for name, (owner, key) in self._places.items()}

    def are_like(self, others: Mapping[str, Tensor]) -> bool:
        """Say whether all are still there, with the shapes of the others."""
        for name, (owner, key) in self._places.items():
            value = owner.get(key)
            if value is None or value.shape != others[name].shape:
                return False
        return True

    @contextmanager
    def replaced_by(self, others: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the tensors hold other values, in place; afterwards their own, bit for bit."""
        current = {name: value for name, value in self.current().items() if name in others}
        own = {name: value.detach().clone() for name, value in current.items()}
        try:
            _fill(current, others)
            yield
        finally:
            _fill(current, own)


def _fill(tensors: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.data.copy_(values[name])  # past the version that a saved graph looks at


def has_users_average(trainer: Trainer) -> bool:
    """Say whether one of Lightning's weight-averaging callbacks runs in this fit."""
    return any(isinstance(each, _WEIGHT_AVERAGING) for each in trainer.callbacks)  # type: ignore[attr-defined]


def users_average(trainer: Trainer) -> dict[str, Tensor] | None:
    """Return the average that such a callback keeps, by name; None as long as it has not begun."""
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, _WEIGHT_AVERAGING):
            model = each._average_model
            if model is None or not int(model.n_averaged):
                return None
            return {**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}
    return None
