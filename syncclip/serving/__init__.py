"""A trained run as an HTTP service on Ray Serve."""
