"""Loading a foreign program inside the sandbox."""

import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

ENTRY = "program.py"


def load(files: Mapping[str, str]) -> ModuleType:
    """Write the program's files into a fresh folder and import its entry file."""
    folder = Path(tempfile.mkdtemp(prefix="program-"))
    for name, text in files.items():
        if "/" in name or name.startswith("."):
            raise ValueError(f"a program's files have plain names, not {name!r}")
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("program", folder / ENTRY)
    if spec is None or spec.loader is None:
        raise ImportError(f"{ENTRY} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["program"] = module
    spec.loader.exec_module(module)
    return module
