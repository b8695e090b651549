"""One engine for jobs over shards: numbered tasks, computed by a pool of Ray actors and committed one by one."""
