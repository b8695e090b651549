"""Cluster configurations for `ray up` and Slurm, and a simulated cluster on one machine."""
