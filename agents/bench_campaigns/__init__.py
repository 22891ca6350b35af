"""Whole campaigns of every arm, paired by seed, at equal trials."""
