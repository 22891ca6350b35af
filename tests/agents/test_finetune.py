"""The language model learns from the ledger: what trains it, what is refused, and one whole run."""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nightlab.agents import catalogue
from nightlab.agents.finetune import selection
from nightlab.agents.finetune.examples import Examples, answer_of, menu_for, read
from nightlab.agents.finetune.learn import Method, Order, finetune, recipe_for
from nightlab.agents.finetune.scoring import (
    REPEATED,
    UNMEASURED,
    UNREADABLE,
    Diversity,
    Read,
    rewards,
)
from nightlab.agents.finetune.scoring import read as read_answer
from nightlab.cli import app
from nightlab.errors import MissingError, NightlabError, UsageError
from nightlab.evals.task import load
from nightlab.memory.example import Clock
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Call, CampaignStatus, Lease
from nightlab.vocabulary import (
    Budget,
    Direction,
    Ending,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Tier,
    Verdict,
)

GAINS = {
    "optimizer:muon": 0.5,
    "batch:8": 0.4,
    "position:rotary": 0.3,
    "norm:rms_norm": 0.02,
    "feed_forward:relu_squared": 0.2,
    "head:tied": -0.2,
    "schedule:constant": -0.3,
    "depth:2": 0.25,
    "batch:16": 0.22,
    "batch:4": 0.45,
}
ABSURD = "width:256"
"""The edit whose program crashes."""


def play(ledger: Ledger, asked: bool = False) -> str:
    """Single edits of the real baseline with made-up scores."""
    rng = np.random.default_rng(0)
    campaign = ledger.create_campaign(
        "lower val_bpb",
        Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=99)),
        task="byte_lm",
        tier=Tier.PROCESS,
        proposer="catalogue",
        seed=1,
        workers=1,
        settings={"screen": "small", "confirm": "full"},
    )
    lease = ledger.acquire_lease(campaign.id, "test:1", seconds=1e6)
    baseline = load("byte_lm").baseline
    start = propose(ledger, lease, baseline, None, ())
    for seed in range(4):
        trial(ledger, lease, start, baseline, seed, 4.0 + 0.01 * float(rng.standard_normal()))
    ledger.conclude_experiment(lease, start, Verdict.CONFIRMED, "the baseline")
    for name in (*GAINS, ABSURD):
        program = catalogue.operator(*name.split(":")).apply(baseline)
        made = propose(ledger, lease, program, start, (name.replace(":", "="),))
        if asked:
            text = f"[system]\nYou choose.\n\n[user]\nChoose {name} or others."
            said = Call(
                model="m",
                prompt=text,
                reply=answer_of("it helps", [name]),
                tokens_in=1,
                tokens_out=1,
                latency_seconds=0.1,
                usd=None,
            )
            ledger.record_call(campaign.id, said, experiment=made)
        value = None if name == ABSURD else 4.0 - GAINS[name]
        trial(ledger, lease, made, program, 0, value)
        verdict = Verdict.CONFIRMED if GAINS.get(name, 0) > 0.1 else Verdict.DISCARDED
        ledger.conclude_experiment(
            lease, made, Verdict.FAILED if value is None else verdict, "as measured"
        )
    ledger.finish_campaign(lease, CampaignStatus.FINISHED, "played")
    return campaign.id


def propose(
    ledger: Ledger, lease: Lease, program: Program, parent: str | None, edits: Sequence[str]
) -> str:
    experiment = ledger.begin_experiment(lease).id
    ledger.put_program(program, tree_hash=f"t{program.id}", origin="catalogue")
    ledger.set_proposal(
        experiment,
        program=program.id,
        parent=parent,
        author="catalogue",
        hypothesis="it might help",
        edits=edits,
    )
    return experiment


def trial(
    ledger: Ledger, lease: Lease, experiment: str, program: Program, seed: int, value: float | None
) -> None:
    purpose = Purpose.SCREEN if experiment.split("-")[1] != "0" else Purpose.NOISE
    begun = ledger.begin_trial(
        lease, experiment, program.id, rung="small", seed=seed, purpose=purpose
    )
    ending = Ending.CRASHED if value is None else Ending.FINISHED
    run = Run(ending=ending, tier=Tier.PROCESS, wall_seconds=1.0, cpu_seconds=1.0)
    measured = None if value is None else Measurement(metrics={"val_bpb": value})
    ledger.finish_trial(begun, run, measured, total_seconds=1.0)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One campaign by the catalogue, one by a model."""
    home = tmp_path_factory.mktemp("home")
    with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts", clock=Clock()) as opened:
        play(opened)
        play(opened, asked=True)
        yield opened


@pytest.fixture(scope="module")
def sets(ledger: Ledger) -> list[Examples]:
    return [read(ledger, campaign) for campaign in ledger.campaigns()]


def test_every_proposal_becomes_an_example_that_the_loop_could_read(sets: list[Examples]) -> None:
    for one in sets:
        assert len(one.rows) == len(GAINS) + 1
        for row in one.rows:
            assert set(json.loads(row.answer)["operators"]) == set(row.operators)
            assert row.prompt[-1]["role"] == "user"
            assert row.operators[0] in row.prompt[-1]["content"]
    assert not any(row.asked for row in sets[0].rows)
    assert all(row.asked for row in sets[1].rows)


def test_a_stored_conversation_is_taken_as_it_was(sets: list[Examples]) -> None:
    row = sets[1].rows[0]
    assert [message["role"] for message in row.prompt] == ["system", "user"]
    assert row.prompt[0]["content"] == "You choose."


def test_a_menu_does_not_tell_what_was_tried(sets: list[Examples]) -> None:
    program = sets[0].rows[0].program
    places = {
        [o.name for o in menu_for(program, ["batch:8"], str(key))].index("batch:8")
        for key in range(40)
    }
    assert len(places) > 6


def test_sft_takes_confirmed_improvements_only(sets: list[Examples]) -> None:
    rows = selection.confirmed(sets[:1])
    names = {row.operators[0] for row in rows}
    assert names == {name for name, gain in GAINS.items() if gain > 0.1}


def test_no_operator_has_more_than_its_share_of_a_set(sets: list[Examples]) -> None:
    rows = [row for row in sets[0].rows if row.operators == ("batch:8",)] * 30
    others = [row for row in sets[0].rows if row.operators != ("batch:8",)]
    kept = selection.capped([*rows, *others])
    assert sum(row.operators == ("batch:8",) for row in kept) == int(0.25 * (30 + len(others)))
    assert len(selection.capped(rows[:3])) == selection.ALWAYS


def test_a_pair_prefers_a_gain_beyond_the_noise_or_a_program_that_runs(
    sets: list[Examples],
) -> None:
    pairs = selection.preferences(sets[:1])
    worth = {row.experiment: row.reward for row in sets[0].rows}
    assert pairs
    for pair in pairs:
        better, worse = (worth[name] for name in pair.experiments)
        assert better is not None
        assert worse is None or better - worse > selection.GAP * sets[0].noise
        for answer in (pair.chosen, pair.rejected):
            assert json.loads(answer)["operators"][0] in pair.prompt[-1]["content"]
    assert any("failed" in pair.why for pair in pairs)


def test_pairs_within_the_noise_are_left_out(sets: list[Examples]) -> None:
    blind = replace(sets[0], noise=10.0)
    assert all("against" in pair.why for pair in selection.preferences([blind]))


def test_a_group_pays_what_was_measured_and_nothing_for_what_was_not(
    sets: list[Examples],
) -> None:
    (group,) = selection.groups(sets[:1])
    worth = [
        read_answer(answer_of("", [name]), group).worth
        for name in ("optimizer:muon", "batch:8", "schedule:constant", ABSURD)
    ]
    assert worth == sorted(worth, reverse=True)
    assert worth[2] > UNMEASURED > worth[3]
    both = read_answer(answer_of("", ["optimizer:muon", "batch:8"]), group)
    assert both.worth == UNMEASURED
    assert read_answer("I would rather not", group).worth == UNREADABLE


def test_a_group_of_one_trick_earns_less_than_a_diverse_one(sets: list[Examples]) -> None:
    (group,) = selection.groups(sets[:1])
    best, other = answer_of("", ["optimizer:muon"]), answer_of("", ["norm:rms_norm"])
    paid = rewards([best, best, other, "nothing"], group)
    assert paid[0] == max(paid)
    assert paid[1] < paid[0]
    assert REPEATED < 0
    assert rewards(["", "", "", ""], group) == [0.0] * 4


def test_a_collapse_is_noticed(sets: list[Examples]) -> None:
    del sets
    wide = Diversity.of(list("abcdefgh"), [Read((f"x:{i}",), 0.5) for i in range(8)])
    narrow = Diversity.of(["a"] * 8, [Read(("x:1",), 0.9)] * 8)
    assert "different answers" in narrow.collapsed(wide)
    assert wide.collapsed(wide) == ""
    dressed = Diversity.of(list("abcdefgh"), [Read(("x:1",), 0.9)] * 8)
    assert "operators" in dressed.collapsed(wide)


def test_stored_answers_without_log_probabilities_are_refused(
    ledger: Ledger, sets: list[Examples], tmp_path: Path
) -> None:
    with pytest.raises(MissingError, match="log-probabilities"):
        selection.stored_groups(selection.groups(sets))
    recipe = recipe_for(Method.GRPO, 1, None, 0)
    order = Order(base="x", method=Method.GRPO, out=tmp_path / "o", off_policy=True, recipe=recipe)
    with pytest.raises(MissingError, match="--method dpo"):
        finetune(ledger, order, print)
    with pytest.raises(UsageError, match="off-policy"):
        finetune(ledger, replace(order, method=Method.SFT), print)


def test_too_little_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    with Ledger.open(f"sqlite:///{tmp_path}/l.db", tmp_path / "a") as empty:
        for method in Method:
            order = Order(
                base="nowhere",
                method=method,
                out=tmp_path / "out",
                recipe=recipe_for(method, 1, None, 0),
            )
            with pytest.raises(MissingError, match="run more campaigns"):
                finetune(empty, order, print)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "x", "--method", "ppo", "--out", "o"], "sft, dpo, grpo"),
        (["--model", "x"], "--out"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["learn", *arguments])
    assert isinstance(done.exception, NightlabError)
    assert says in str(done.exception)


def tiny_base(folder: Path, texts: list[str]) -> str:
    """A random Llama of about a quarter million weights with a tokenizer of its own."""
    import importlib

    transformers: Any = importlib.import_module("transformers")
    tokenizers: Any = importlib.import_module("tokenizers")
    raw = tokenizers.ByteLevelBPETokenizer()
    raw.train_from_iterator(texts, vocab_size=1000, special_tokens=["<pad>", "<eos>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw._tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        initializer_range=0.15,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


MISSING = [
    name
    for name in ("trl", "peft", "datasets", "transformers")
    if importlib.util.find_spec(name) is None
]
extra = pytest.mark.skipif(
    bool(MISSING), reason=f"the extra finetune is not installed: {', '.join(MISSING)}"
)


@extra
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", Method)
def test_a_tiny_model_is_trained_exported_and_proposes(
    method: Method, ledger: Ledger, sets: list[Examples], tmp_path: Path
) -> None:
    texts = [str(row.prompt) + row.answer for one in sets for row in one.rows]
    base = tiny_base(tmp_path / "base", texts)
    steps = {Method.SFT: 60, Method.DPO: 25, Method.GRPO: 3}[method]
    recipe = replace(
        recipe_for(method, steps, 1e-2, 0), answer_tokens=24, check_every=1000, most_tokens=1500
    )
    order = Order(base=base, method=method, out=tmp_path / "out", campaigns=("c1",), recipe=recipe)
    said: list[str] = []
    found = finetune(ledger, order, said.append)
    trained = found.trained
    assert trained.steps == steps
    if method is not Method.GRPO:
        assert np.mean(trained.losses[-5:]) < 0.8 * np.mean(trained.losses[:3])
    assert trained.samples
    assert (found.adapter / "adapter_model.safetensors").is_file()
    loads(base, found.adapter, found.merged)
    assert "vllm serve" in (order.out / "USE.md").read_text()
    assert json.loads((order.out / "finetune.json").read_text())["steps"] == steps


def loads(base: str, adapter: Path, merged: Path) -> None:
    """The adapter on the base gives the logits of the merged model, and not those of the base."""
    import importlib

    transformers: Any = importlib.import_module("transformers")
    peft: Any = importlib.import_module("peft")
    torch: Any = importlib.import_module("torch")
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    tokens = torch.arange(20)[None]
    before = plain(tokens).logits
    adapted = peft.PeftModel.from_pretrained(plain, str(adapter))(tokens).logits
    whole = transformers.AutoModelForCausalLM.from_pretrained(str(merged))(tokens).logits
    assert torch.allclose(adapted, whole, atol=1e-4)
    assert not torch.allclose(adapted, before, atol=1e-4)
