"""Studies: grids of runs, scaling curves, paired comparisons, domain shift, report.

Nothing is imported here: the recipe takes `StudySettings` from this room's `settings` module, and stands below the
rest of it.
"""
