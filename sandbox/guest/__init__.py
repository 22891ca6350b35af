"""The frozen code inside a sandbox: worker, trainer, oracle. Imports nothing else of ours."""
