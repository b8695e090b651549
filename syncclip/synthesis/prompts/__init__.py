"""Prompt generation for each image, from the class name and the image's number."""
