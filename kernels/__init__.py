"""Efficient ops that any program in a sandbox may import; plain-PyTorch twins define them.

``kernels.explain()`` says which path each op took, and why.
"""

from nightlab.kernels.choice import explain

__all__ = ["explain"]
