"""Synthetic sets as things: a recipe or others' files come in; a plan, a whole set, its numbers or an export go out."""
