"""Reproduction of published protocols on all of their datasets; see docs/reproduce.md."""
