"""The tasks that ship, one folder each: ``task.toml``, the baseline program, the data's origin."""
