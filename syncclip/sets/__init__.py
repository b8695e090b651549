"""syncclip.sets"""
