"""`Classifier`: a plain LightningModule, as a user would write one. It knows nothing of pruning."""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_alignprune._checks import check_bool, check_float, check_instance, check_int
from lightning_alignprune.models.networks import network_by_name
from lightning_alignprune.models.optimisation import OptimizerConfig, ScheduleConfig


class Classifier(LightningModule):
    """Train a network by cross-entropy; log loss and accuracy on clean data.

    Logs ``train_loss``, ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc``. Label smoothing
    belongs to training only.

    Args:
        network: A module from inputs to logits (B, C), or a name: ``"cifar_resnet18"``,
            ``"small_cnn"``, ``"mlp3"``, ``"timm/<name>"``, ``"torchvision/<name>"``. Another name
            is looked for in timm where that is installed, then in torchvision.
        num_classes: C.
        pretrained: Whether a network of timm or torchvision starts from its published weights.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        optimizer: Which optimizer, and its numbers.
        schedule: How the learning rate moves.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range or a name unknown.

    Example:
        >>> import torch
        >>> Classifier("mlp3", num_classes=20)(torch.zeros(2, 300)).shape
        torch.Size([2, 20])
    """

    def __init__(
        self,
        network: nn.Module | str = "cifar_resnet18",
        num_classes: int = 10,
        pretrained: bool = False,
        label_smoothing: float = 0.0,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        owner, remedy = "Classifier", "0.1 in the papers' CIFAR recipe; 0 turns it off."
        self.label_smoothing = check_float(
            owner, "label_smoothing", label_smoothing, low=0, below=1, remedy=remedy
        )
        remedy = "A classifier needs two."
        num_classes = check_int(owner, "num_classes", num_classes, low=2, remedy=remedy)
        pretrained = check_bool(owner, "pretrained", pretrained)
        if isinstance(network, str):
            network = network_by_name(network, num_classes, pretrained)
        remedy = "A network can also be given by name, such as 'small_cnn'."
        self.network = check_instance(owner, "network", network, nn.Module, remedy=remedy)
        remedy = "Pass optimizer=OptimizerConfig(lr=...)."
        self.optimizer_config = check_instance(
            owner, "optimizer", optimizer, OptimizerConfig, remedy=remedy
        )
        remedy = "Pass schedule=ScheduleConfig(...)."
        self.schedule_config = check_instance(
            owner, "schedule", schedule, ScheduleConfig, remedy=remedy
        )
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (B, C)."""
        logits: Tensor = self.network(inputs)
        return logits

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss = F.cross_entropy(self(inputs), labels, label_smoothing=self.label_smoothing)
        self.log("train_loss", loss)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_accuracy)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_accuracy)

    def _evaluate(
        self, batch: tuple[Tensor, Tensor], stage: str, accuracy: MulticlassAccuracy
    ) -> None:
        inputs, labels = batch
        logits = self(inputs)
        accuracy.update(logits, labels)
        self.log(f"{stage}_loss", F.cross_entropy(logits, labels), prog_bar=True, sync_dist=True)
        self.log(f"{stage}_acc", accuracy, prog_bar=True)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_config.make(self.parameters())
        num_steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.schedule_config.make(optimizer, num_steps)
        return optimizer if schedule is None else {"optimizer": optimizer, "lr_scheduler": schedule}
