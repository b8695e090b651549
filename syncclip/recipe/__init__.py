"""Recipes: typed experiment configuration, YAML files, command-line overrides and reference."""
