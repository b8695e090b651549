"""`syncclip reproduce` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python ray_jobs/reproduce.py base-to-novel --root DATA --out DIR [--dataset NAME].. [KEY=VALUE]..

Inside a job the cluster is joined; elsewhere RAY_ADDRESS names one, and without it Ray starts on this machine. DATA and
DIR must be URLs or absolute paths that every node of the cluster sees.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
