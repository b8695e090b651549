"""Learned prompts in and out: from checkpoints of the methods' published code to runs, and from runs to checkpoints."""
