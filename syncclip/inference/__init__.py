"""Using what was learned: a trained run names the classes of new images."""
