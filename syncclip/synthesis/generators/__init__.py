"""Generators: prompts and seeds come in, images of any diffusers text-to-image pipeline go out."""
