"""Frozen CLIPs with prompts in both towers, prompt texts, and image transforms."""
