"""Text-to-image synthesis: Ray Data distributes a plan over actors, which write WebDataset shards with markers."""
