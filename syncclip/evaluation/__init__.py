"""syncclip.evaluation"""
