"""syncclip.core"""
