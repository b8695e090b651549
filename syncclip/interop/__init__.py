"""Import and export of checkpoints for the methods' published code, and upload of runs to the Hugging Face Hub."""
