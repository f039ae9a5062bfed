"""The commands of the command line, a file for each kind; thin: each parses, calls and prints.

What a command needs is imported inside it, so that ``--help`` does not wait for JAX.
"""
