"""syncclip.recipe"""
