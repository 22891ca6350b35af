"""The command line with a language model: found, missing, unreachable; its key is nowhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.agents.openai_server import Say, Server
else:
    sys.path.append(str(Path(__file__).parents[1] / "agents"))
    from openai_server import Say, Server

CANARY = "sk-canary-0f3e77aa"


def nightlab(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-m", "nightlab", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def test_llm_without_a_model_is_missing_and_says_how_to_get_one() -> None:
    done = nightlab("run", "lower val_bpb", "--proposer", "llm", "--trials", "40")
    assert done.returncode == 3
    assert "NIGHTLAB_MODEL" in done.stderr


def test_a_model_that_does_not_answer_at_the_start_is_exit_3_and_keeps_its_key() -> None:
    done = nightlab(
        "goal",
        "lower val_bpb",
        NIGHTLAB_MODEL="m",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        OPENAI_API_KEY=CANARY,
    )
    assert done.returncode == 3
    assert "no language model answers at 127.0.0.1:9" in done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_auto_says_that_no_model_is_configured() -> None:
    done = nightlab("goal", "lower val_bpb in 10 minutes")
    assert done.returncode == 0
    assert "no language model is configured" in done.stderr


@pytest.mark.parametrize("command", ["approve", "reject", "annotate"])
def test_a_word_on_an_experiment_that_is_not_there_is_bad_usage(command: str) -> None:
    note = ["a note"] if command == "annotate" else []
    assert nightlab(command, "c9-1", *note).returncode == 2


UNREADABLE = "make my tiny language model write nicer code"


@pytest.mark.parametrize("command", [["run"], ["overnight", "--until", "07:00"]])
def test_a_goal_that_only_the_model_reads_begins_after_a_yes_only(command: list[str]) -> None:
    answer = {"metric": "val_bpb", "hypotheses": ["Rotary positions."], "parts": ["position"]}
    with Server(lambda asked: Say(text=json.dumps(answer) if asked else "")) as server:
        variables = {"NIGHTLAB_MODEL": "scripted", "OPENAI_BASE_URL": server.url}
        done = nightlab(command[0], UNREADABLE, *command[1:], **variables)
        shown = nightlab("goal", UNREADABLE, **variables)
    assert done.returncode == 2
    assert "only scripted could read the goal: look at it, then add --yes" in done.stderr
    assert "research    expects: Rotary positions." in done.stderr
    assert shown.returncode == 0
    assert "scripted: price unknown; a reply has at most 8,192 tokens" in shown.stdout
    assert "screen on small" in shown.stdout
