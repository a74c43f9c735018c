"""`FeatureHook`: what a network makes of a batch before its last layer, by forward hooks."""

from types import TracebackType
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from lightning_alignprune._checks import did_you_mean
from lightning_alignprune.trainer_access.errors import refusal


class FeatureHook:
    """Catch the features of each batch while it is entered; nothing stays on the module.

    Args:
        module: The module.
        layer: Name of the layer whose output is taken, as in ``module.named_modules()``, flattened
            to one row a sample. None takes the *input* of the linear layer that makes the logits.

    Raises:
        MisconfigurationException: If there is no layer of that name.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with FeatureHook(net) as hook:
        ...     logits = net(torch.zeros(2, 4))
        >>> hook.features(logits).shape, hook.has_bias
        (torch.Size([2, 8]), True)
    """

    def __init__(self, module: nn.Module, layer: str | None = None) -> None:
        self.layer = layer
        parts = dict(module.named_modules())
        if layer is not None and (not layer or layer not in parts):
            remedy = f"Names are those of module.named_modules().{did_you_mean(layer, parts)}"
            raise refusal("feature_layer to be a layer of the module", repr(layer), remedy)
        linear = [part for part in parts.values() if isinstance(part, nn.Linear)]
        self._watched = linear if layer is None else [parts[layer]]
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._handles: list[Any] = []

    @property
    def has_bias(self) -> bool:
        """Whether the layer that made the last logits has a bias; True if a layer was named."""
        made_by = self._calls[-1][0] if self._calls else None
        return getattr(made_by, "bias", True) is not None

    def __enter__(self) -> Self:
        self._handles = [part.register_forward_hook(self._catch) for part in self._watched]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def clear(self) -> None:
        """Forget the calls of the batch before."""
        self._calls.clear()

    def _catch(self, part: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if self.layer is not None and isinstance(output, Tensor):
            self._calls.append((part, output.detach().clone(), output))  # the next may be in place
        elif self.layer is None and given and isinstance(output, Tensor) and output.ndim == 2:
            self._calls.append((part, given[0].detach(), output))

    def features(self, logits: Tensor) -> Tensor:
        """Return the features of the batch with these logits, shape (B, d), float32.

        Raises:
            MisconfigurationException: If the layer gave none for each sample.
        """
        calls = self._calls
        if self.layer is None:
            # The layer whose output they are, or that had one like them before it was scaled.
            same = [call for call in calls if call[2].data_ptr() == logits.data_ptr()]
            like = [call for call in calls if call[2].shape == logits.shape]
            calls = self._calls = (same or like)[-1:]
        found = calls[-1][1] if calls else None
        if found is None or len(found) != len(logits):
            what = "no linear layer that makes the logits" if self.layer is None else "none"
            raise refusal(
                "a layer that gives features of each sample",
                what if found is None else f"shape {tuple(found.shape)}",
                "Name one of module.named_modules(): feature_layer=.",
            )
        return found.flatten(1).float()
