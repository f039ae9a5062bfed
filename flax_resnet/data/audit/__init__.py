"""Checks of a folder of images before training.

``check_folder`` finds unreadable, oddly sized and duplicate images, ``render`` shows its report in
a terminal, and ``contact_sheet`` draws examples of every class.
"""

from .check import DuplicateGroup, FolderReport, check_folder, render
from .contact_sheet import contact_sheet

__all__ = ["DuplicateGroup", "FolderReport", "check_folder", "contact_sheet", "render"]
