"""Where do noisy training labels and a clean reference set come from?

Data modules for the data sets of the literature; images need the extra ``vision``.
"""

from lightning_alignprune.data.base import NoisyLabelDataModule, Sets
from lightning_alignprune.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from lightning_alignprune.data.clothing1m import Clothing1MDataModule
from lightning_alignprune.data.datasets import ImageFileDataset, InMemoryDataset, LabelledDataset
from lightning_alignprune.data.image_folder import ImageFolderDataModule
from lightning_alignprune.data.news import NewsDataModule
from lightning_alignprune.data.noise import LabelNoise
from lightning_alignprune.data.noise_file import make_noise_file
from lightning_alignprune.data.readers.label_files import read_label_file, write_label_file
from lightning_alignprune.data.settings import Loading, Split
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
    "Loading",
    "NewsDataModule",
    "NoisyLabelDataModule",
    "Sets",
    "Split",
    "WebVisionDataModule",
    "make_noise_file",
    "read_label_file",
    "write_label_file",
]
