"""Generators, which turn prompts and seeds into images with any diffusers text-to-image pipeline or an endpoint."""
