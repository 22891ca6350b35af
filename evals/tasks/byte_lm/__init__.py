"""Byte-level language modelling on Python source: the default task."""
