"""The commands of the command line, one file for each subject.

A command is a function: its parameters before ``/`` are positional arguments, those after ``*`` are
options, and its docstring is its ``--help``. ``grammar.py`` parses the words of a command line for
all of them. A command calls the library and prints; it has no logic of its own. It imports what it
needs inside the function, so that ``--help`` does not wait for JAX.
"""
