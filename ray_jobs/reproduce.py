"""`syncclip reproduce` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python ray_jobs/reproduce.py base-to-novel --root DATA --out DIR [--dataset NAME].. [KEY=VALUE]..

In a Ray job, it runs on the job's cluster; otherwise on the cluster at RAY_ADDRESS, or on a local Ray that it starts.
DATA and DIR must be URLs or absolute paths accessible from every node.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
