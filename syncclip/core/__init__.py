"""Foundations: session, settings, user errors, text, parsing, secrets, trust in code, and class-balanced selection."""
