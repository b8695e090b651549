"""The process and its Ray: sessions, shutdown, temporary folders, threads."""
