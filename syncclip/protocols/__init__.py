"""Reproduce published evaluation protocols on all of their datasets; see docs/reproduce.md."""
