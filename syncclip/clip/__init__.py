"""From a backbone's name to a frozen CLIP whose two towers take prompts, and from images to tensors."""
