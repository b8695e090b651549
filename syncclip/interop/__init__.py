"""Import and export of checkpoints of the methods' published code, and upload of runs to the Hugging Face Hub."""
