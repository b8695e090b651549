"""What goes out and comes in: prompts of the methods' published code, model cards, sets as others lay them out."""
