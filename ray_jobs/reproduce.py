"""`syncclip reproduce` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python ray_jobs/reproduce.py base-to-novel --root DATA --out DIR [--dataset NAME].. [KEY=VALUE]..

In a Ray job, the script runs on the job's cluster; otherwise on the cluster at RAY_ADDRESS or on a local Ray instance.
DATA and DIR must be URLs or absolute paths that every node can access.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
