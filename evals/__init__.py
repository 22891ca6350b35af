"""Trusted measurement: tasks, the scorer, integrity probes, spectra and statistics."""
