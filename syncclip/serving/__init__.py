"""A trained run over HTTP, on Ray Serve."""
