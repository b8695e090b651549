"""Reports of a study, a run or a synthetic dataset: one self-contained HTML page, and a table for the terminal."""

from syncclip.reports.page import report, write_report

__all__ = ["report", "write_report"]
