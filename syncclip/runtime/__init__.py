"""Processes and Ray: sessions, shutdown, temporary folders, threads."""
