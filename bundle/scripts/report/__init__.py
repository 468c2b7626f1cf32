"""The evaluation's report for people: one HTML file that needs nothing else."""

from .files import save_pictures
from .page import write_report
from .panels import Panel

__all__ = ["Panel", "save_pictures", "write_report"]
