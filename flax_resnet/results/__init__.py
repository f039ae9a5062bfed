"""Results that anyone can rerun: rows of a table, their runs over seeds, records and studies.

``rows.py`` is the table of recipes with their published accuracies, ``runs.py`` trains a row,
``records.py`` keeps what is left of a finished run, ``scores.py`` has means and standard errors,
and ``studies.py`` compares architectures that are trained equally.
"""
