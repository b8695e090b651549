"""Benchmarks: class names, prompt templates, real pictures, base and novel halves, few-shot choice."""

from syncclip.datasets.dataset import SPLITS, Benchmark, Split
from syncclip.datasets.files import FolderSet
from syncclip.datasets.loading import load_benchmark
from syncclip.datasets.settings import BenchmarkSettings

__all__ = ["SPLITS", "Benchmark", "BenchmarkSettings", "FolderSet", "Split", "load_benchmark"]
