"""Benchmarks of whole jobs: files here, models and orders beside them."""
