"""`syncclip synth` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . -- python ray_jobs/synth.py travel --out DIR [KEY=VALUE]..

Inside a job the cluster is joined; elsewhere RAY_ADDRESS names one, and without it Ray starts on this machine. DIR must
be a URL or an absolute path that every node of the cluster sees.
"""

import sys

from syncclip.cli import main

if __name__ == "__main__":
    main(["synth", *sys.argv[1:]])
