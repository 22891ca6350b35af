"""Models in Hugging Face folders: the only module that knows transformers.

Only safetensors weights and code of the installed library are loaded; code that comes with a
model is never run, and nothing is fetched.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nightlab.errors import MissingError, UsageError
from nightlab.evals.nerve.probe import Report, probe, token_batches


@dataclass(frozen=True)
class Probing:
    """How a model is probed."""

    batches: int = 4
    """Independent batches, over which intervals are taken."""
    rows: int = 8
    """Sequences of one batch."""
    length: int = 128
    """Tokens of one sequence."""
    tokens: int = 512
    """Tokens sampled for one spectrum, N."""
    seed: int = 0
    """For random tokens, where no data is given."""


def is_model_folder(path: Path) -> bool:
    """Whether a folder looks like a Hugging Face model."""
    return (path / "config.json").is_file()


def checkpoints(path: Path) -> list[tuple[int, Path]]:
    """(step, folder) of ``checkpoint-STEP`` folders, as transformers' trainer leaves them."""
    found = []
    for folder in path.glob("checkpoint-*") if path.is_dir() else ():
        step = folder.name.removeprefix("checkpoint-")
        if step.isdecimal() and is_model_folder(folder):
            found.append((int(step), folder))
    return sorted(found)


def report(path: Path, data: Sequence[Path], probing: Probing, step: int = 0) -> tuple[Report, str]:
    """Spectra of the model in a folder, and what it was probed with, in words.

    MissingError without transformers; UsageError where the folder or the data cannot be used.
    """
    model = _load(path)
    ids, words = _tokens(path, model, data, probing)
    batches = token_batches(ids, batches=probing.batches, rows=probing.rows, length=probing.length)
    return probe(
        model, [_inputs(model, b) for b in batches], tokens=probing.tokens, step=step
    ), words


def _transformers() -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as cause:
        raise MissingError(
            "reading a Hugging Face model needs transformers: pip install 'nightlab[huggingface]'"
        ) from cause
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _load(path: Path) -> nn.Module:
    library = _transformers()
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    try:
        config = library.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        causal = type(config) in library.AutoModelForCausalLM._model_mapping
        kind = library.AutoModelForCausalLM if causal else library.AutoModel
        model: nn.Module = kind.from_pretrained(path, torch_dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError) as cause:
        raise UsageError(f"{path}: not a model that can be loaded safely: {cause}") from cause
    return model.eval()


def _tokens(
    path: Path, model: nn.Module, data: Sequence[Path], probing: Probing
) -> tuple[list[int], str]:
    vocabulary = int(getattr(model.config, "vocab_size", 0) or 0)
    if vocabulary < 2:
        raise UsageError(f"{path}: the model takes no tokens, which is all this probe can give it")
    if not data:
        generator = torch.Generator().manual_seed(probing.seed)
        wanted = probing.batches * probing.rows * probing.length
        ids = torch.randint(vocabulary, (wanted,), generator=generator).tolist()
        return ids, "random tokens (no data given): a property of the weights, not of language"
    try:
        text = "\n".join(each.read_text(errors="replace") for each in data)
    except OSError as cause:
        raise UsageError(f"cannot read the probe data: {cause}") from cause
    names = ", ".join(each.name for each in data[:3]) + (", ..." if len(data) > 3 else "")
    tokenizer = _tokenizer(path)
    if tokenizer is not None:
        return list(tokenizer(text, verbose=False)["input_ids"]), f"text of {names}"
    ids = [byte % vocabulary for byte in text.encode()]
    return ids, f"bytes of {names} (no tokenizer in the folder)"


def _tokenizer(path: Path) -> Any:
    if not any(
        (path / name).exists() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")
    ):
        return None
    return _transformers().AutoTokenizer.from_pretrained(
        path, local_files_only=True, trust_remote_code=False
    )


def _inputs(model: nn.Module, batch: Tensor) -> Tensor | dict[str, Tensor]:
    if getattr(model.config, "is_encoder_decoder", False):
        return {"input_ids": batch, "decoder_input_ids": batch}
    return batch
