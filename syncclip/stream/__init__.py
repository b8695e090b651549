"""syncclip.stream"""
