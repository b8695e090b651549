"""Prompt generation from an image's class name and index."""
