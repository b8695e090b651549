"""`syncclip classify` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- python ray_jobs/classify.py RUN SHARDS --actors 8

In a Ray job, the script runs on the job's cluster; otherwise on the cluster at RAY_ADDRESS or on a local Ray instance.
RUN and SHARDS must be URLs or absolute paths that every node can access.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["classify", *sys.argv[1:]])
