"""Benchmarks: class names, prompt templates, real pictures, base and novel halves, few-shot choice."""

from syncclip.benchmarks.benchmark import SPLITS, Benchmark, Split
from syncclip.benchmarks.files import FolderSet
from syncclip.benchmarks.loading import load_benchmark
from syncclip.benchmarks.settings import BenchmarkSettings

__all__ = ["SPLITS", "Benchmark", "BenchmarkSettings", "FolderSet", "Split", "load_benchmark"]
