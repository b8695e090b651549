"""`syncclip train` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- python ray_jobs/train.py travel --out DIR [KEY=VALUE]..

In a Ray job, the script runs on the job's cluster; otherwise on the cluster at RAY_ADDRESS or on a local Ray instance.
DIR must be a URL or an absolute path that every node can access.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
