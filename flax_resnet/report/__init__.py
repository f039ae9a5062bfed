"""Reports on a run: its history, its progress, its page, and tables and plots of its results."""

from .history import Entry, append_history, read_history, truncate_history
from .model_card import model_card
from .page import write_page
from .progress import Progress
from .tables import arrays_table, evaluation_tables, results_table, summary_table

__all__ = [
    "Entry",
    "Progress",
    "append_history",
    "arrays_table",
    "evaluation_tables",
    "model_card",
    "read_history",
    "results_table",
    "summary_table",
    "truncate_history",
    "write_page",
]
