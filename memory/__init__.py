"""The ledger: what was tried, what was measured, what was concluded, and how it is shown."""
