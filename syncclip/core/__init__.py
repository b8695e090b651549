"""Core utilities: session, settings, user errors, text, parsing, secrets, trust in custom code, class balancing."""
