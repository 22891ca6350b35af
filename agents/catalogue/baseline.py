"""The catalogue's names for the parts of the baseline program, and what they stand for."""

from collections.abc import Mapping
from types import MappingProxyType

BASELINE: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "norm": (
            "layer_norm",
            "Centring and scaling each token keeps every layer's input in range.",
            "Ba et al. 2016, arXiv 1607.06450",
        ),
        "position": (
            "learned",
            "A free vector per place lets the model learn whatever it needs of order.",
            "Radford et al. 2018 (GPT)",
        ),
        "embedding": (
            "plain",
            "One learned vector per byte is enough.",
            "Bengio et al. 2003",
        ),
        "head": (
            "untied",
            "Reading and writing bytes are different jobs and deserve weights of their own.",
            "Vaswani et al. 2017, without its tying",
        ),
        "shift": (
            "none",
            "Attention alone finds the predecessors it needs.",
            "Vaswani et al. 2017, arXiv 1706.03762",
        ),
        "scores": (
            "softmax",
            "A softmax over scaled dot products shares each token's attention out.",
            "Vaswani et al. 2017, arXiv 1706.03762, eq. 1",
        ),
        "attention": (
            "multi_head",
            "Several heads look for several things at once.",
            "Vaswani et al. 2017, arXiv 1706.03762",
        ),
        "feed_forward": (
            "gelu",
            "A smooth gate between two linear maps stores what attention cannot compute.",
            "Hendrycks & Gimpel 2016, arXiv 1606.08415",
        ),
        "block": (
            "pre_norm",
            "Normalising each branch's input leaves a clean path for the gradient.",
            "Xiong et al. 2020, arXiv 2002.04745",
        ),
        "initialise": (
            "normal",
            "Small normal weights of one size start every layer near linear.",
            "Radford et al. 2019 (GPT-2)",
        ),
        "model": (
            "plain",
            "A straight stack of blocks.",
            "Vaswani et al. 2017, arXiv 1706.03762",
        ),
        "optimizer": (
            "adamw",
            "Per-weight step sizes with decay apart from the gradient.",
            "Loshchilov & Hutter 2019, arXiv 1711.05101",
        ),
        "schedule": (
            "cosine",
            "A cosine spends most of the budget near the full rate and ends gently.",
            "Loshchilov & Hutter 2017, arXiv 1608.03983",
        ),
        "eviction": (
            "everything",
            "A question that nobody knows yet may ask for anything.",
            "the control of every eviction study",
        ),
    }
)
"""Part to (variant name, hypothesis, origin)."""
