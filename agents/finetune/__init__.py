"""The language model learns too: training data from the ledger, LoRA by TRL, guards, export.

Everything but :mod:`nightlab.agents.finetune.trainer` works without the extra ``finetune``.
"""
