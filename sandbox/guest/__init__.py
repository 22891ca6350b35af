"""The frozen code inside a sandbox: the worker, the trainer and the oracle. Imports nothing of ours."""
