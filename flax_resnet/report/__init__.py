"""What a run tells: its history, its progress, its results."""

from .evaluation import Evaluation, evaluate_logits
from .history import Entry, append_history, keep_history, read_history
from .page import write_page
from .progress import Progress
from .tables import arrays_table, evaluation_tables, results_table, summary_table

__all__ = [
    "Entry",
    "Evaluation",
    "Progress",
    "append_history",
    "arrays_table",
    "evaluate_logits",
    "evaluation_tables",
    "keep_history",
    "read_history",
    "results_table",
    "summary_table",
    "write_page",
]
