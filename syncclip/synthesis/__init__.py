"""Text-to-image generation: a plan comes in, and Ray Data fans it out into WebDataset shards with their markers."""
