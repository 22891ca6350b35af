"""The policy: what to try next, and how that choice is learned from stored experiments."""
