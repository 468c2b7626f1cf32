"""The evaluation's report for people: one HTML file that needs nothing else."""

from .page import write_report
from .panels import Panel

__all__ = ["Panel", "write_report"]
