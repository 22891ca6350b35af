"""The frozen trainer: runs inside a sandbox and sees the training data only."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from program import Model, Recipe, make_optimizer, schedule
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor
from torch.nn import functional as F


def main() -> None:
    """Train for the budget, at least one step, and save the weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--budget-seconds", type=float)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    data = load_file(arguments.data / "train.safetensors")
    recipe = Recipe()
    model = Model(recipe)
    optimizer = make_optimizer(model, recipe)
    rates = [group["lr"] for group in optimizer.param_groups]
    start, progress = time.process_time(), 0.0
    while True:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(progress, recipe)
        rows = torch.randint(len(data["x"]), (recipe.batch,))
        loss = F.cross_entropy(model(data["x"][rows]), data["y"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        used = time.process_time() - start
        if used >= arguments.budget_seconds:
            break
        progress = used / arguments.budget_seconds
    if hasattr(optimizer, "finish"):
        optimizer.finish()
    save_model(model, str(arguments.out / "weights.safetensors"))


def predictor(out: Path) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """In another sandbox: what was trained, ready to answer rows of inputs without labels."""
    model = Model(Recipe())
    load_model(model, str(out / "weights.safetensors"))
    model.eval()
    return lambda inputs: {"logits": model(inputs["x"])}


if __name__ == "__main__":
    main()
