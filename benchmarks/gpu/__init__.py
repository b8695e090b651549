"""Benchmarks of generation, synthesis and training on a GPU, with random weights of published shapes: `make gpu`.

Each part runs in a process that is killed at its time limit; its rows so far are kept. `<device>.json` contains all
figures and the reasons of missing ones, `<device>.md` the tables.
"""
