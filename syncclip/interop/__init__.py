"""Import and export checkpoints for the methods' published code; upload runs to the Hugging Face Hub."""
