"""Variants of the initialisation: how the weights of linear maps and embeddings start."""

from torch import nn

from nightlab.evals.tasks.byte_lm.program import Recipe


def _ends_branch(name: str) -> bool:
    """Whether a linear map writes a block's branch into the residual stream."""
    return name.startswith("blocks") and bool({"out", "down"} & set(name.split(".")))


def residual_scaled(model: nn.Module, recipe: Recipe) -> None:
    """Standard deviation 0.02, less by the depth's root where a branch ends.

    Why: The sum of all branches starts at the size of one.
    From: Radford et al. 2019 (GPT-2), section 2.3
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            factor = (2 * recipe.depth) ** -0.5 if _ends_branch(name) else 1.0
            nn.init.normal_(module.weight, std=0.02 * factor)


def fan_in(model: nn.Module, recipe: Recipe) -> None:
    """Linear maps keep the size of what they read; embeddings start at 0.02.

    Why: At width 64 a deviation of 0.02 is far too small: layers start almost silent.
    From: He et al. 2015, arXiv 1502.01852; LeCun et al. 1998
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def zero_branches(model: nn.Module, recipe: Recipe) -> None:
    """As the size of what is read allows, but every branch starts at zero.

    Why: The model starts as a bigram table and grows its layers from there.
    From: Zhang et al. 2019, arXiv 1901.09321 (Fixup); Jordan et al. 2024 (modded-nanoGPT)
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            deviation = 0.0 if _ends_branch(name) else module.in_features**-0.5
            nn.init.normal_(module.weight, std=deviation)


def orthogonal(model: nn.Module, recipe: Recipe) -> None:
    """Linear maps start orthogonal; embeddings at 0.02.

    Why: No direction is lost on the way in or out at the first step.
    From: Saxe et al. 2013, arXiv 1312.6120
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def xavier(model: nn.Module, recipe: Recipe) -> None:
    """Uniform weights that balance the sizes of signal and gradient.

    Why: Both directions matter; take the mean of what is read and what is written.
    From: Glorot & Bengio 2010, eq. 16
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.xavier_uniform_(module.weight)


def large_embedding(model: nn.Module, recipe: Recipe) -> None:
    """Embeddings start at a quarter, linear maps at the size of what they read, the head at 0.

    Why: With equal steps for all weights, what should move far relative to its size is small.
    From: Yang et al. 2022, arXiv 2203.03466 (muP, table 8)
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.25)
        elif isinstance(module, nn.Linear):
            deviation = 0.0 if name.startswith("head") else module.in_features**-0.5
            nn.init.normal_(module.weight, std=deviation)
