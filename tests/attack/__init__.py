"""Attacks: bits flipped, nonsense fed, processes killed; thousands by `make attack`, some in every run of the tests."""
