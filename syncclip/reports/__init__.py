"""Reports of a study, run or synthetic dataset: a self-contained HTML page, and a table for the terminal."""

from syncclip.reports.page import StudyReport, report, write_report

__all__ = ["StudyReport", "report", "write_report"]
