"""`syncclip study` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- python ray_jobs/study.py icons --out DIR [KEY=VALUE]..

It joins the job's cluster; outside a job, that of RAY_ADDRESS, or it starts Ray on this machine.
DIR must be a URL or an absolute path accessible from every node.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
