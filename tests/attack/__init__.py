"""Attacks: damage, random input, kills and races; a sample in `make test`, thousands in `make attack`."""
