"""The parameter search: noise level, threshold P and steps over lists of values, on labelled validation subjects."""

from .draw import draw_subjects
from .folder import SearchFolder, describe_search
from .grid import Grid
from .maps import SettingRunner
from .run import Search
from .winner import searched_note

__all__ = ["Grid", "Search", "SearchFolder", "SettingRunner", "describe_search", "draw_subjects", "searched_note"]
