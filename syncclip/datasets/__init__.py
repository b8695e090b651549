"""Datasets: class names, prompt templates, real images, base and novel halves, few-shot choice."""

from syncclip.datasets.dataset import SPLITS, Dataset, Split
from syncclip.datasets.files import FolderSet
from syncclip.datasets.loading import load_dataset
from syncclip.datasets.settings import DatasetSettings

__all__ = ["SPLITS", "Dataset", "DatasetSettings", "FolderSet", "Split", "load_dataset"]
