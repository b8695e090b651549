"""Clusters: files for `ray up`, scripts for Slurm, and what plays a cluster on one machine."""
