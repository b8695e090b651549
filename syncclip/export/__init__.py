"""Export trained runs for programs without syncclip."""
