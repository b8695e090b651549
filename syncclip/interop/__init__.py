"""Import and export of checkpoints of the methods' published code, and runs on the Hugging Face Hub."""
