"""Speed and memory, measured: methods against their plain formulations, synthesis, loading, streaming."""
