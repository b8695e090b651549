"""Speed and memory of the methods, held against the plain formulation of each."""
