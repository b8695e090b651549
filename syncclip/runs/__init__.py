"""syncclip.runs"""
