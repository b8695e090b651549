"""Frozen CLIP models with prompts in both towers, prompt text, and image transforms."""
