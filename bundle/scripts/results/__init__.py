"""What inference leaves behind: the folder of results, their cost and picture, and the calibrated threshold."""

from .folder import SCORE_COLUMNS, ResultFolder, read_rows, source_of, write_rows

__all__ = ["SCORE_COLUMNS", "ResultFolder", "read_rows", "source_of", "write_rows"]
