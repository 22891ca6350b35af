"""The researcher: turns a goal into experiments and learns from their outcomes."""
