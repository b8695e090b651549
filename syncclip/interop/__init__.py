"""Import and export checkpoints of the methods' published code; upload runs to the Hugging Face Hub."""
