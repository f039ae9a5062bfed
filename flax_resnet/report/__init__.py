"""Reports on a run: its history, its progress, its page, and tables and plots of its results."""

from .history import Entry, append_history, history_up_to, read_history, truncate_history
from .model_card import model_card
from .page import write_page
from .progress import Progress
from .tables import arrays_table, evaluation_tables, results_table, summary_table
from .trackers import Trackers, check_trackers, open_trackers

__all__ = [
    "Entry",
    "Progress",
    "Trackers",
    "append_history",
    "arrays_table",
    "check_trackers",
    "evaluation_tables",
    "history_up_to",
    "model_card",
    "open_trackers",
    "read_history",
    "results_table",
    "summary_table",
    "truncate_history",
    "write_page",
]
