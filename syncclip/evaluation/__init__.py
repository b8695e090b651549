"""Evaluation: a method and test images go in, predictions and the numbers of every protocol come out."""
