"""`syncclip classify` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- python ray_jobs/classify.py RUN SHARDS --actors 8

Inside a job the cluster is joined; elsewhere RAY_ADDRESS names one, and without it Ray starts on this machine. RUN and
SHARDS must be URLs or absolute paths that every node of the cluster sees.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["classify", *sys.argv[1:]])
