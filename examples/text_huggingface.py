"""A Hugging Face Transformer on sentences with wrong labels: return `outputs.loss`, that is all.

    pip install transformers
    python examples/text_huggingface.py

The network is small and built from its configuration, the sentences are made: nothing is
downloaded. With your own, take `AutoModelForSequenceClassification.from_pretrained(...)` and a
tokenizer; batches stay the same dicts.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertForSequenceClassification

from lightning_alignprune import DynamicPruningCallback

CLASSES, WORDS = 4, 40


class Sentences(Dataset[dict[str, Tensor]]):
    """Sentences of several lengths; each class has words of its own among common ones."""

    def __init__(self, number: int, wrong: float, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (number,), generator=g)
        self.texts = [self._text(int(label), g) for label in self.labels]
        self.is_wrong = torch.rand(number, generator=g) < wrong
        others = (self.labels + torch.randint(1, CLASSES, (number,), generator=g)) % CLASSES
        self.labels = torch.where(self.is_wrong, others, self.labels)

    def _text(self, label: int, g: torch.Generator) -> Tensor:
        words = torch.randint(
            1, WORDS, (int(torch.randint(5, 12, (1,), generator=g)),), generator=g
        )
        own = torch.rand(len(words), generator=g) < 0.3
        return torch.where(own, WORDS + label, words)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.texts[index], "labels": self.labels[index]}


def padded(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad on the right, as a tokenizer's collator does."""
    ids = torch.nn.utils.rnn.pad_sequence([item["input_ids"] for item in items], batch_first=True)
    labels = torch.stack([item["labels"] for item in items])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


class FineTuning(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=WORDS + CLASSES,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            num_labels=CLASSES,
        )
        self.model = BertForSequenceClassification(config)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.model(**batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.train_set = Sentences(600, wrong=0.3, seed=0)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_set, batch_size=32, shuffle=True, collate_fn=padded)

    def reference_dataloader(self) -> DataLoader[Any]:  # the callback finds it by its name
        return DataLoader(Sentences(150, wrong=0.0, seed=1), batch_size=50, collate_fn=padded)


pl.seed_everything(0)
data, pruning = Data(), DynamicPruningCallback.robust()
trainer = pl.Trainer(max_epochs=15, accelerator="cpu", callbacks=[pruning], logger=False)
trainer.fit(FineTuning(), data)

is_wrong, selection = data.train_set.is_wrong, pruning.decision.selection
kept = torch.ones_like(is_wrong) if selection is None else selection.kept
print(
    f"wrong labels: {is_wrong.float().mean():.0%} of all, "
    f"{is_wrong[kept].float().mean():.0%} of what was kept"
)
