"""Hugging Face transformers: ``outputs = self.model(**batch); return outputs.loss``.

Networks are built from small configurations, data are made.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import transformers as hf
from _check import Client
from _data import Items, digits, loader, sentences
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

SENTENCES = sentences()
IMAGES, CLASSES = digits(32, channels=3)
VOCABULARY, HIDDEN = 50, 32
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
BERT: dict[str, Any] = {
    **SIZES,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VISION: dict[str, Any] = {**BERT, "image_size": 32, "patch_size": 8}
LLAMA: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100, "decoder_input_ids": 0}


class FineTuning(pl.LightningModule):
    """The module of the Lightning and Hugging Face tutorials."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        outputs = self.model(**batch)
        self.log("train_loss", outputs.loss)
        return outputs.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Contrastive(FineTuning):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.model(**batch, return_loss=True).loss


def padded(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Collate as transformers' own collators do: pad on the right, ignore padded labels."""
    return {
        key: pad_sequence(values, batch_first=True, padding_value=PADDING[key])
        if key in PADDING and (values := [item[key] for item in items])[0].ndim
        else torch.stack([item[key] for item in items])
        for key in items[0]
    }


def texts(labels: Callable[[Tensor], dict[str, Tensor]]) -> Callable[[], DataLoader[Any]]:
    """Return what makes a loader of sentences, with what `labels` adds to each."""

    def item(i: int) -> dict[str, Tensor]:
        ids = SENTENCES[i]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **labels(ids)}

    return lambda: loader(Items(item), collate_fn=padded)


def images(labels: Callable[[int], dict[str, Tensor]]) -> Callable[[], DataLoader[Any]]:
    return lambda: loader(Items(lambda i: {"pixel_values": IMAGES[i], **labels(i)}))


def masked(ids: Tensor) -> dict[str, Tensor]:
    """Mask a third of the words, at least one; the others are ignored."""
    is_masked = torch.rand(len(ids)) < 0.3
    is_masked[0] = True
    return {"input_ids": ids.masked_fill(is_masked, 3), "labels": ids.masked_fill(~is_masked, -100)}


def question(i: int) -> dict[str, Tensor]:
    """A question and a text of full length: this network looks for answers in the padding too."""
    start, end = torch.randint(12, (2,)).sort().values
    ids = torch.randint(4, VOCABULARY, (12,))
    return {"input_ids": ids, "start_positions": start, "end_positions": end}


def speech(i: int) -> dict[str, Tensor]:
    length = 2 + i % 3
    labels = torch.full((4,), -100)
    labels[:length] = torch.randint(1, 20, (length,))
    return {"input_values": torch.randn(1600), "labels": labels}


def captioned(i: int) -> dict[str, Tensor]:
    ids = torch.randint(4, VOCABULARY - 1, (6,))
    ids[-1] = VOCABULARY - 1
    return {"pixel_values": IMAGES[i], "input_ids": ids}


def with_boxes(items: list[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, Any]:
    return {
        "pixel_values": torch.stack([image for image, _ in items]),
        "labels": [target for _, target in items],
    }


def boxed(i: int) -> tuple[Tensor, dict[str, Tensor]]:
    num_boxes = 1 + i % 3
    boxes = torch.rand(num_boxes, 4) * 0.4 + 0.3
    return IMAGES[i], {"class_labels": torch.randint(3, (num_boxes,)), "boxes": boxes}


def classifier(**settings: Any) -> Callable[[], FineTuning]:
    config = hf.BertConfig(**BERT, **settings)
    return lambda: FineTuning(hf.BertForSequenceClassification(config))


def bert(model: type[nn.Module], **settings: Any) -> Callable[[], FineTuning]:
    return lambda: FineTuning(model(hf.BertConfig(**BERT, **settings)))


def gpt2() -> FineTuning:
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": HIDDEN}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "loss_type": "ForCausalLM"}
    config = hf.GPT2Config(**sizes, **ends, n_layer=1, n_head=2, **off)
    return FineTuning(hf.GPT2LMHeadModel(config))


def t5() -> FineTuning:
    sizes = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 16, "d_ff": 64}
    config = hf.T5Config(
        **sizes, num_layers=1, num_heads=2, dropout_rate=0.0, decoder_start_token_id=0
    )
    return FineTuning(hf.T5ForConditionalGeneration(config))


def mixture_of_experts() -> FineTuning:
    """A language model that adds a loss for balanced experts, written by hand."""
    config = hf.MixtralConfig(
        **LLAMA, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.1
    )
    return FineTuning(hf.MixtralForCausalLM(config))


def wav2vec() -> FineTuning:
    config = hf.Wav2Vec2Config(
        **{**BERT, "vocab_size": 20},
        **dict.fromkeys(("hidden_dropout", "attention_dropout", "layerdrop"), 0.0),
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        activation_dropout=0.0,
        conv_dim=(16, 16),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        ctc_loss_reduction="mean",
        mask_time_prob=0.0,
        apply_spec_augment=False,
    )
    return FineTuning(hf.Wav2Vec2ForCTC(config))


def segmenter() -> FineTuning:
    config = hf.MobileNetV2Config(
        depth_multiplier=0.35, image_size=32, num_labels=2, classifier_dropout_prob=0.0
    )
    return FineTuning(hf.MobileNetV2ForSemanticSegmentation(config))


def clip() -> FineTuning:
    text = {**SIZES, "bos_token_id": 1, "eos_token_id": VOCABULARY - 1}
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return Contrastive(hf.CLIPModel(config))


def detector() -> FineTuning:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    backbone.out_features = ["stage2"]
    config = hf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=6,
        num_labels=3,
        d_model=HIDDEN,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        dropout=0.0,
    )
    return FineTuning(hf.DetrForObjectDetection(config))


CLIENTS = [
    Client(
        "BERT, sequence classification",
        classifier(num_labels=3),
        texts(lambda ids: {"labels": ids[0] % 3}),
    ),
    Client(
        "BERT, regression",
        classifier(num_labels=1),
        texts(lambda ids: {"labels": ids.float().mean() / VOCABULARY}),
    ),
    Client(
        "BERT, several labels",
        classifier(num_labels=4, problem_type="multi_label_classification"),
        texts(lambda ids: {"labels": torch.rand(4).round()}),
    ),
    Client(
        "BERT, token classification, padded",
        bert(hf.BertForTokenClassification, num_labels=3),
        texts(lambda ids: {"labels": ids % 3}),
    ),
    Client("BERT, masked language model, padded", bert(hf.BertForMaskedLM), texts(masked)),
    Client(
        "BERT, question answering",
        bert(hf.BertForQuestionAnswering),
        lambda: loader(Items(question)),
    ),
    Client("GPT-2, language model, padded", gpt2, texts(lambda ids: {"labels": ids})),
    Client(
        "Llama, language model, padded",
        lambda: FineTuning(hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA))),
        texts(lambda ids: {"labels": ids}),
    ),
    Client(
        "Mixtral, language model with a balancing loss",
        mixture_of_experts,
        texts(lambda ids: {"labels": ids}),
    ),
    Client("T5, translation, padded", t5, texts(lambda ids: {"labels": ids.flip(0)})),
    Client(
        "ViT, image classification",
        lambda: FineTuning(hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=10))),
        images(lambda i: {"labels": CLASSES[i]}),
    ),
    Client(
        "MobileNetV2, semantic segmentation",
        segmenter,
        images(lambda i: {"labels": (IMAGES[i, 0] > 0.5).long()}),
    ),
    Client("Wav2Vec2, CTC", wav2vec, lambda: loader(Items(speech))),
    Client("CLIP, contrastive", clip, lambda: loader(Items(captioned))),
    Client("DETR, detection", detector, lambda: loader(Items(boxed), collate_fn=with_boxes)),
]
