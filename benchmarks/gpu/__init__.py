"""Benchmarks of generation, synthesis and training on a GPU, with random weights of published shapes: `make gpu`.

Each part runs in its own process, which is killed at its time limit; rows that are already measured are kept.
`<device>.json` contains all figures and the reasons for missing figures; `<device>.md` contains the tables.
"""
