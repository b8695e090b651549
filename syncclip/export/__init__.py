"""Export of trained runs for programs without syncclip."""
