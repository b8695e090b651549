"""Text-to-image synthesis: Ray Data distributes a plan's shards over actors, which write them in WebDataset format."""
