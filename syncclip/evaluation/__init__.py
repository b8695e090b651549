"""Evaluation: classify test images with a method, and compute the metrics of all protocols."""
