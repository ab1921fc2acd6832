"""``python -m export report``: one page, Markdown and HTML, from the files that training and scoring left behind."""

from export.report.page import write_report

__all__ = ["write_report"]
