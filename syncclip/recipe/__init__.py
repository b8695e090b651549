"""Recipes: YAML files and overrides come in, typed and checked settings of one experiment go out."""
