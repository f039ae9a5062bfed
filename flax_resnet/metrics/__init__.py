"""Losses and metrics, each defined once."""
