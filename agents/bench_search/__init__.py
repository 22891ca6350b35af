"""Benchmarks of the search itself: every arm, the same tables, the same budget."""
