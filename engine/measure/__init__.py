"""Errors, timing, charts and the small runnable reference transformer."""
