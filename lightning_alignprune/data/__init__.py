"""Data modules with label noise and a clean reference set (extra ``vision``)."""

from lightning_alignprune.data.base import NoisyLabelDataModule, Sets
from lightning_alignprune.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from lightning_alignprune.data.clothing1m import Clothing1MDataModule
from lightning_alignprune.data.datasets import ImageFileDataset, InMemoryDataset, LabelledDataset
from lightning_alignprune.data.image_folder import ImageFolderDataModule
from lightning_alignprune.data.news import NewsDataModule
from lightning_alignprune.data.noise import LabelNoise
from lightning_alignprune.data.readers.label_files import read_label_file, write_label_file
from lightning_alignprune.data.webvision import WebVisionDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Clothing1MDataModule",
    "ImageFileDataset",
    "ImageFolderDataModule",
    "InMemoryDataset",
    "LabelNoise",
    "LabelledDataset",
    "NewsDataModule",
    "NoisyLabelDataModule",
    "Sets",
    "WebVisionDataModule",
    "read_label_file",
    "write_label_file",
]
