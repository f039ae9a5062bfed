"""What a run tells: its history, its progress, its results."""

from .history import append_history, keep_history, read_history
from .progress import Progress
from .tables import arrays_table, results_table, summary_table

__all__ = [
    "Progress",
    "append_history",
    "arrays_table",
    "keep_history",
    "read_history",
    "results_table",
    "summary_table",
]
