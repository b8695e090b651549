"""Ray sessions and processes: shutdown, progress, temporary folders and threads."""
