"""Benchmarks of speed and memory: methods compared with plain formulations, synthesis, data loading, streaming."""
