"""`syncclip classify` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- python ray_jobs/classify.py RUN SHARDS --actors 8

It joins the job's cluster; outside a job, that of RAY_ADDRESS, or it starts Ray on this machine.
RUN and SHARDS must be URLs or absolute paths accessible from every node.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["classify", *sys.argv[1:]])
