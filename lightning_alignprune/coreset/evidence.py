"""What a warm-up found of the training samples, for a method to choose from.

Legend: ``N`` samples, ``B`` of a batch, ``T`` recorded epochs, ``C`` classes, ``d`` feature size.
"""

from typing import NamedTuple

from torch import Tensor


class SeenBatch(NamedTuple):
    """One batch of the scoring pass, in evaluation mode, on the module's device.

    Attributes:
        losses: Shape (B,), float32: plain losses, without label smoothing; NaN where the loss
            ignores the sample.
        probabilities: Shape (B, C), float32; None unless the step has one classification loss.
        labels: Shape (B,), int64, the given labels, 0 where ignored; None likewise.
        features: Shape (B, d), float32; None unless the method reads them.
        has_bias: Whether the layer that makes the logits has a bias; True where unknown.
    """

    losses: Tensor
    probabilities: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None
    has_bias: bool = True

    def classified(self) -> tuple[Tensor, Tensor]:
        """Return probabilities and labels of a step that was checked to show them."""
        assert self.probabilities is not None
        assert self.labels is not None
        return self.probabilities, self.labels


class Evidence(NamedTuple):
    """What is known of all N samples when the warm-up is over.

    Attributes:
        num_samples: N.
        rows: What the method's signal recorded: one tensor of shape (N,) per epoch, oldest first.
        values: Shape (N,), float32, on the CPU: what the method read off the scoring pass; None
            without a pass.
        labels: Shape (N,), int64, on the CPU, the given labels; None where they are not known.
        features: Shape (N, d), float32, on the CPU; None unless the method keeps them.
        seed: Seed of draws and of the order of equal scores.
    """

    num_samples: int
    rows: list[Tensor]
    values: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None
    seed: int = 0
