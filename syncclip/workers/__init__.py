"""Engine for jobs over shards: numbered tasks that a pool of Ray actors computes and commits one by one."""
