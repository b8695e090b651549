"""Foundations: the session, settings and their errors, text and tables, secrets, trust, and sample orders."""
