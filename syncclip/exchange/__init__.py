"""Learned prompts in and out: the checkpoints of the methods' published code, model cards, the words near a prompt."""
