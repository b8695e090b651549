"""Clusters: files for `ray up`, scripts for Slurm, and a cluster simulated on one machine."""
