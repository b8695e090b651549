"""Datasets of real images: classes, prompt template, splits and few-shot sampling."""

from syncclip.datasets.dataset import SPLITS, Dataset, DatasetSettings, Split
from syncclip.datasets.folders import FolderSet
from syncclip.datasets.loading import load_dataset, suite_of

__all__ = ["SPLITS", "Dataset", "DatasetSettings", "FolderSet", "Split", "load_dataset", "suite_of"]
