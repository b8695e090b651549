"""The frozen backbone (open_clip) and the one place where prompts enter its two towers."""
