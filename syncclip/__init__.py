"""syncclip: how much does synthetic data help CLIP recognise classes without real images?"""
