"""Prompts: the sentence of an image, from the class name and the image's number."""
