"""From the name or path of a dataset to its classes, prompt template, splits of real images, and few-shot choice."""

from syncclip.datasets.dataset import SPLITS, Dataset, DatasetSettings, Split
from syncclip.datasets.files import FolderSet
from syncclip.datasets.loading import load_dataset, suite_of

__all__ = ["SPLITS", "Dataset", "DatasetSettings", "FolderSet", "Split", "load_dataset", "suite_of"]
