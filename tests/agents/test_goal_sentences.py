"""Goals in plain words are read as their writer meant them, and what cannot be read is refused."""

import json
from datetime import datetime

import pytest

from nightlab.agents.goal import describe, document, read
from nightlab.errors import UsageError
from nightlab.evals import task
from nightlab.vocabulary import Budget, Constraint, Direction, Objective

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
BYTE_LM = {"val_bpb": LOWER, "params": LOWER, "peak_memory_mb": LOWER}
RECALL = {
    "accuracy": HIGHER,
    "params": LOWER,
    "peak_memory_mb": LOWER,
    "kv_bytes_per_token": LOWER,
    "decode_ms@4096": LOWER,
    "train_tokens_per_s": HIGHER,
    "val_bpb": LOWER,
}
EVENING = datetime(2026, 3, 4, 22, 15)


def reading(sentence: str) -> Objective:
    return read(sentence, RECALL, "accuracy", EVENING).objective


def goal(
    metric: str,
    *constraints: Constraint,
    percent: float | None = None,
    value: float | None = None,
    **budget: float,
) -> Objective:
    return Objective(
        metric=metric,
        direction=RECALL[metric],
        target_percent=None if percent is None else pytest.approx(percent),  # type: ignore[arg-type]
        target_value=value,
        constraints=constraints,
        budget=Budget(**budget),  # type: ignore[arg-type]
    )


def at_most(metric: str, value: float) -> Constraint:
    return Constraint(metric, "<=", value)


def near(metric: str, factor: float) -> Constraint:
    return Constraint(metric, "<=" if RECALL[metric] is LOWER else ">=", factor, relative=True)


SAME_SIZE = near("params", 1.0)
KV, DECODE = "kv_bytes_per_token", "decode_ms@4096"

SENTENCES = {
    "lower validation bits per byte of the byte-level language model in 10 minutes": goal(
        "val_bpb", seconds=600
    ),
    "lower val_bpb in 3 minutes": goal("val_bpb", seconds=180),
    "raise recall accuracy at context 2048 in 5 minutes": goal("accuracy", seconds=300),
    "cut kv_bytes_per_token by half within 1 % accuracy": goal(
        KV, near("accuracy", 0.99), percent=50
    ),
    "halve decode latency at 4k context within 1% bpb": goal(
        DECODE, near("val_bpb", 1.01), percent=50
    ),
    "beat this baseline's bits per byte by 5 % without more parameters": goal(
        "val_bpb", SAME_SIZE, percent=5
    ),
    "halve the KV cache at equal quality": goal(KV, near("accuracy", 1.0), percent=50),
    "I want to lower the kv-cache size by a factor of 4": goal(KV, percent=75),
    "reduce bpb to under 2.9 with half the parameters": goal(
        "val_bpb", near("params", 0.5), value=2.9
    ),
    "Get val_bpb below 3.0, with at most 200k parameters, in 1h30m": goal(
        "val_bpb", at_most("params", 200_000), value=3.0, seconds=5400
    ),
    "raise accuracy to 90% while keeping params below 1.5M": goal(
        "accuracy", at_most("params", 1.5e6), value=0.9
    ),
    "minimise params subject to accuracy >= 0.9 and val_bpb<=3": goal(
        "params", Constraint("accuracy", ">=", 0.9), at_most("val_bpb", 3)
    ),
    "make training 2x faster at the same accuracy": goal(
        "train_tokens_per_s", near("accuracy", 1.0), percent=100
    ),
    "2x faster decoding at 4k within 1% accuracy": goal(DECODE, near("accuracy", 0.99), percent=50),
    "speed up decoding by 25 %": goal(DECODE, percent=20),
    "lower decode latency by 25 %": goal(DECODE, percent=25),
    "double throughput with at most 10% more parameters": goal(
        "train_tokens_per_s", near("params", 1.1), percent=100
    ),
    "improve accuracy, no slower and using no more memory": goal(
        "accuracy", near("train_tokens_per_s", 1.0), near("peak_memory_mb", 1.0)
    ),
    "raise accuracy without more parameters or memory for 1,000 trials": goal(
        "accuracy", SAME_SIZE, near("peak_memory_mb", 1.0), trials=1000
    ),
    "cut decode latency by half within 1% accuracy at 4k context": goal(
        DECODE, near("accuracy", 0.99), percent=50
    ),
    "at most 1 % worse accuracy, shrink the model by a third": goal(
        "params", near("accuracy", 0.99), percent=100 / 3
    ),
    "a 2x smaller model losing at most 2 % accuracy": goal(
        "params", near("accuracy", 0.98), percent=50
    ),
    "cut 20 % of the parameters at equal quality": goal(
        "params", near("accuracy", 1.0), percent=20
    ),
    "reduce params to 50 % of the baseline without hurting accuracy": goal(
        "params", near("accuracy", 1.0), percent=50
    ),
    "decode latency under 2 s in 10 minutes": goal(DECODE, value=2000, seconds=600),
    "lower val_bpb, at most 10 minutes": goal("val_bpb", seconds=600),
    "peak memory below 1 GB": goal("peak_memory_mb", value=1024),
    "lower val_bpb while reducing memory by 10 %": goal("val_bpb", near("peak_memory_mb", 0.9)),
    "lower the loss in 10 minutes": goal("val_bpb", seconds=600),
    "improve in half an hour": goal("accuracy", seconds=1800),
    "beat the baseline by 5 % in two hours": goal("accuracy", percent=5, seconds=7200),
    "in 10 minutes, lower val_bpb by at least 8%": goal("val_bpb", percent=8, seconds=600),
    "lower val_bpb in 10 min by 5 %": goal("val_bpb", percent=5, seconds=600),
    "find a model with fewer parameters for at most $5": goal("params", usd=5.0),
    "lower val_bpb with 100k tokens and 3 GPU-hours": goal(
        "val_bpb", tokens=100_000, gpu_seconds=10_800
    ),
    "val_bpb in 90 s": goal("val_bpb", seconds=90),
    "lower val_bpb overnight": goal("val_bpb", seconds=8.75 * 3600),
    "lower val_bpb overnight until 6:30": goal("val_bpb", seconds=8.25 * 3600),
    "lower val_bpb until 11 pm": goal("val_bpb", seconds=45 * 60),
    "don't increase params, lower val_bpb": goal("val_bpb", SAME_SIZE),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_goal_is_read_as_it_was_meant(sentence: str) -> None:
    assert reading(sentence) == SENTENCES[sentence]


REFUSED = {
    "improve the frobnication of the model quickly": "'frobnication', 'quickly'",
    "lower val_bpb with rotary embeddings": "'rotary embeddings'",
    "lower val_bpb on 2 cores": "'cores'",
    "lower perplexity": "bits per byte is its logarithm",
    "raise accuracy by 5 points": "percent of the baseline",
    "lower prefill_ms": "does not measure prefill_ms; it measures accuracy",
    "lower decode latency at 8k context": "decode_ms at context 8192",
    "lower val_bpb and params": "two aims",
    "lower val_bpb and reduce memory": "two aims",
    "raise val_bpb": "wrong direction",
    "lower val_bpb above 3": "wrong direction",
    "double the parameters": "wrong direction",
    "with 20 % more parameters, lower val_bpb": "at most",
    "lower val_bpb to 1.2x": "no improvement",
    "halve params by 5 %": "says how far already",
    "lower val_bpb by 5 % by 6 %": "two targets",
    "lower val_bpb by 0.1": "in percent of the baseline",
    "lower params by 100 %": "less than 100 %",
    "lower params by 0 %": "ask for more than 0 %",
    "lower val_bpb by -5 %": "ask for more than 0 %",
    "raise accuracy above 1.5": "between 0 and 1",
    "decode latency under 5 MB": "not measured in bytes",
    "lower val_bpb in 0 minutes": "must be more than 0",
    "lower val_bpb in -5 minutes": "must be more than 0",
    "lower val_bpb with 0 trials": "must be more than 0",
    "lower val_bpb for $0": "must be more than 0",
    "lower val_bpb with 2.5 trials": "not a whole number",
    "lower val_bpb in at least 10 minutes": "upper bound",
    "lower val_bpb in 5 minutes overnight": "two budgets of time",
    "lower val_bpb until 25:00": "'until 25:00'",
    "in 10 minutes": "no aim",
    "with at most 200k parameters in 5 minutes": "no aim",
    "raise accuracy at equal quality": "both the aim and a constraint",
    "lower val_bpb with params above 2k and params below 1k": "cannot both hold",
    "lower val_bpb within 1 % accuracy within 2 % accuracy": "two bounds",
    "lower val_bpb within 150 % accuracy": "0 to 100 %",
    "make params faster": "not a speed",
    "": "says nothing",
    "the model": "says nothing",
    "lower val_bpb " * 100: "at most 1000 characters",
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_goal_that_cannot_be_meant_is_refused_with_the_reason(sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        reading(sentence)
    assert REFUSED[sentence] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_answered_with_the_metrics_and_the_forms() -> None:
    with pytest.raises(UsageError) as caught:
        read("optimise the vibes", BYTE_LM, "val_bpb", EVENING)
    assert "cannot read 'vibes'" in str(caught.value)
    assert "val_bpb, params, peak_memory_mb" in str(caught.value)
    assert "without more parameters" in str(caught.value)


def test_every_shipped_task_reads_its_own_metrics_by_name() -> None:
    for name in task.names():
        shipped = task.load(name)
        for metric, better in shipped.metrics.items():
            verb = "lower" if better is LOWER else "raise"
            told = read(f"{verb} {metric}", shipped.metrics, shipped.metric, EVENING)
            assert (told.objective.metric, told.objective.direction) == (metric, better)


def test_a_tasks_own_metric_can_be_named_and_is_not_mistaken_for_another() -> None:
    metrics = {"loss_at_rank_8": LOWER, "loss": LOWER}
    told = read("lower loss at rank 8 by 5 %", metrics, "loss", EVENING)
    assert told.objective.metric == "loss_at_rank_8"
    assert read("lower loss", metrics, "loss", EVENING).objective.metric == "loss"


def test_a_metric_measured_at_several_contexts_must_say_which() -> None:
    metrics = {"decode_ms@1024": LOWER, "decode_ms@4096": LOWER}
    with pytest.raises(UsageError, match="at which context"):
        read("halve decode latency", metrics, "decode_ms@1024", EVENING)
    told = read("halve decode latency at context 1024", metrics, "decode_ms@4096", EVENING)
    assert told.objective.metric == "decode_ms@1024"


def test_a_context_of_a_metric_measured_at_one_length_is_handed_on() -> None:
    told = read("raise recall accuracy at 2k context", RECALL, "accuracy", EVENING)
    assert told.context == 2048
    assert read("raise accuracy", RECALL, "accuracy", EVENING).context is None


def test_the_reading_shows_every_word_of_the_sentence() -> None:
    sentence = (
        "lower the loss of our transformer by 5 %, within 1 % accuracy at 4k context, overnight"
    )
    told = read(sentence, RECALL, "accuracy", EVENING)
    shown = " ".join(part.words for part in told.understood) + " ".join(told.ignored)
    assert all(word.strip(",") in shown for word in sentence.split())


def test_the_plain_form_says_what_each_part_was_read_as() -> None:
    text = describe(read("lower val_bpb without more parameters overnight", RECALL, "acc", EVENING))
    assert '"without more parameters"  params at most the baseline\'s' in text
    assert '"overnight"                until 07:00, 8 h 45 min from now' in text


def test_the_json_form_survives_a_round_trip() -> None:
    told = document(read("halve the KV cache within 1 % accuracy", RECALL, "accuracy", EVENING))
    assert json.loads(json.dumps(told)) == told
    assert told["objective"] == {
        "metric": "kv_bytes_per_token",
        "direction": "lower",
        "target_percent": 50.0,
        "target_value": None,
        "constraints": [{"metric": "accuracy", "op": ">=", "value": 0.99, "relative": True}],
        "budget": dict.fromkeys(("seconds", "trials", "usd", "tokens", "gpu_seconds")),
    }
