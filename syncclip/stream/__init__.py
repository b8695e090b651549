"""The mixed stream: real images and synthetic shards go in, training batches come out."""
