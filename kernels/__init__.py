"""Efficient ops that any program in a sandbox may import; plain-PyTorch twins define them."""
