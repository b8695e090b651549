"""What every room builds on: settings and their refusals, text and tables, progress, orders from hashes, and Ray."""
