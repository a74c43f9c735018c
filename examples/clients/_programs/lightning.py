"""Lightning's own demos, and programs like those of its documentation."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from _check import Client
from _data import Items, digits, loader
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.demos.boring_classes import (
    BoringModel,
    DemoModel,
    ManualOptimBoringModel,
    RandomDataset,
)
from lightning.pytorch.demos.transformer import LightningTransformer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

IMAGES, CLASSES = digits()
LABELLED = TensorDataset(IMAGES, CLASSES)


class Training(pl.LightningModule):
    """What the programs below have in common."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class ImageClassifier(Training):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss


class AutoEncoder(Training):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 64))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = batch[0].flatten(1)
        return F.mse_loss(self.decoder(self.encoder(x)), x)


class VariationalAutoEncoder(AutoEncoder):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = batch[0].flatten(1)
        mean = self.encoder(x)
        divergence = 0.5 * (mean**2).sum(1).mean()
        return F.mse_loss(self.decoder(mean), x) + 0.1 * divergence


class TransferLearning(Training):
    """A frozen backbone and a head for two classes, fine-tuned from epoch 2 on."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(288, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        target = (y > 4).view(-1, 1).float()
        return F.binary_cross_entropy_with_logits(self.head(self.backbone(x)), target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.head.parameters(), lr=1e-3)


class Unfreezing(BaseFinetuning):
    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(
        self, pl_module: pl.LightningModule, epoch: int, optimizer: torch.optim.Optimizer
    ) -> None:
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


class SemanticSegmentation(Training):
    """Which pixels are ink? The border counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, mask = batch
        return {"loss": F.cross_entropy(self.net(x.float()), mask.long(), ignore_index=250)}


def masks() -> TensorDataset:
    mask = (IMAGES[:, 0] > 0.5).long()
    mask[::2, 0] = 250
    return TensorDataset(IMAGES, mask)


class GenerativeAdversarialNet(Training):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 64)
        self.discriminator = nn.Linear(64, 1)

    def adversarial_loss(self, y_hat: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(y_hat, y)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x = batch[0].flatten(1)
        optimizer_g, optimizer_d = self.optimizers()
        real, fake = torch.ones(len(x), 1), torch.zeros(len(x), 1)
        made = self.generator(torch.randn(len(x), 4))
        g_loss = self.adversarial_loss(self.discriminator(made), real)
        optimizer_g.zero_grad()
        self.manual_backward(g_loss)
        optimizer_g.step()
        d_loss = self.adversarial_loss(self.discriminator(x), real)
        d_loss = (d_loss + self.adversarial_loss(self.discriminator(made.detach()), fake)) / 2
        optimizer_d.zero_grad()
        self.manual_backward(d_loss)
        optimizer_d.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = self.generator, self.discriminator
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in parts]


class LanguageModel(LightningTransformer):
    """The demo as it is, without its download."""

    def prepare_data(self) -> None:
        pass


def words(_: int) -> tuple[Tensor, Tensor]:
    text = torch.randint(50, (13,))
    return text[:-1], text[1:]


CLIENTS = [
    Client("image classifier", ImageClassifier, lambda: loader(LABELLED)),
    Client("autoencoder", AutoEncoder, lambda: loader(LABELLED)),
    Client(
        "autoencoder with a divergence written by hand",
        VariationalAutoEncoder,
        lambda: loader(LABELLED),
    ),
    Client(
        "transfer learning with `BaseFinetuning`",
        TransferLearning,
        lambda: loader(LABELLED),
        lambda: [Unfreezing()],
    ),
    Client("semantic segmentation, `ignore_index`", SemanticSegmentation, lambda: loader(masks())),
    Client("`demos` `BoringModel`", BoringModel, lambda: loader(RandomDataset(32, 96))),
    Client("`demos` `DemoModel`", DemoModel, lambda: loader(Items(lambda i: torch.randn(32)))),
    Client(
        "`demos` `ManualOptimBoringModel`",
        ManualOptimBoringModel,
        lambda: loader(RandomDataset(32, 96)),
    ),
    Client(
        "`demos` `LightningTransformer`, a language model",
        lambda: LanguageModel(vocab_size=50),
        lambda: loader(Items(words)),
    ),
    Client("GAN, manual optimisation", GenerativeAdversarialNet, lambda: loader(LABELLED)),
]
