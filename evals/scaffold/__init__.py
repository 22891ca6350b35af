"""The files of a new task, as ``nightlab task new`` copies them."""
