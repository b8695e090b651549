"""Runs: a recipe goes in, the parts that it names come out built, and in the end what the trained method scores."""
