"""What inference leaves behind: the folder of results, their cost and picture, and the calibrated threshold."""

from .calibration import run_settings
from .folder import ResultFolder, read_rows, source_of, write_rows

__all__ = ["ResultFolder", "read_rows", "run_settings", "source_of", "write_rows"]
