"""Checks of a data set: unreadable files, duplicates, a contact sheet."""
