"""Engine for sharded jobs: numbered tasks that a pool of Ray actors computes and commits one by one."""
