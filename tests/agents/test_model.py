"""Asking language models over real HTTP: what is answered, tried again, accounted for, hidden."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from nightlab.agents.model import Model
from nightlab.agents.question import (
    Endpoint,
    Message,
    Question,
    Reply,
    Schema,
    Trouble,
    UnansweredError,
)
from nightlab.agents.spending import Price, Spending, prices
from nightlab.errors import MissingError, UsageError
from nightlab.memory.records import Call

if TYPE_CHECKING:
    from tests.agents.openai_server import Asked, Say, Script, Server
else:
    from openai_server import Asked, Say, Script, Server

CANARY = "sk-canary-7d1f0c93"
QUESTION = Question(messages=(Message("system", "Be brief."), Message("user", "Why?")))
PRICE = Price(input=1.0, cached=0.5, output=2.0)

Api = pytest.mark.parametrize("api", ["chat", "responses"])


class Asking:
    """A model at a server, with what it recorded."""

    def __init__(
        self,
        server: Server,
        api: str = "chat",
        price: Price | None = PRICE,
        spending: Spending | None = None,
        idle: float = 10.0,
    ) -> None:
        assert api in ("chat", "responses")
        self.calls: list[Call] = []
        self.spending = spending or Spending()
        endpoint = Endpoint(
            name="scripted",
            base_url=server.url,
            key=SecretStr(CANARY),
            api="chat" if api == "chat" else "responses",
            idle_seconds=idle,
        )
        self.model = Model(endpoint, price, self.spending, first_wait=0.01)

    def ask(self, question: Question = QUESTION) -> Reply:
        return self.model.ask(question, self.calls.append)

    def trouble(self, question: Question = QUESTION) -> Trouble:
        with pytest.raises(UnansweredError) as caught:
            self.ask(question)
        return caught.value.trouble


def first(*sayings: Say) -> Script:
    """Each saying once, the last one for ever."""
    return lambda asked: sayings[min(asked.number, len(sayings) - 1)]


OK = Say(text="Because of the noise floor.")


@Api
def test_an_answer_is_streamed_whole_and_paid_to_the_token(api: str) -> None:
    heard: list[int] = []
    with Server(first(OK)) as server:
        asking = Asking(server, api)
        reply = asking.model.ask(QUESTION, asking.calls.append, heard.append)
        assert reply.text == OK.text
        assert not reply.truncated
        assert len(set(heard)) > 3
        assert asking.spending.tokens == server.tokens_in + server.tokens_out
        used = server.tokens_in * 1.0 + server.tokens_out * 2.0
        assert asking.spending.usd == pytest.approx(used / 1e6)
        (call,) = asking.calls
        assert (call.tokens_in, call.tokens_out) == (server.tokens_in, server.tokens_out)
        assert "Why?" in call.prompt


def test_openai_is_asked_through_responses_and_everybody_else_through_chat() -> None:
    assert Endpoint(name="m").responses
    assert Endpoint(name="m", base_url="https://api.openai.com/v1").responses
    assert not Endpoint(name="m", base_url="http://localhost:8000/v1").responses
    assert Endpoint(name="m", base_url="http://localhost:8000/v1", api="responses").responses


@Api
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(Say(status=429, headers={"retry-after": "0.02"}), id="429"),
        pytest.param(Say(status=503), id="503"),
        pytest.param(Say(text="half of an answer", cut=True), id="cut"),
        pytest.param(Say(text="half of an answer", open_end=True), id="open end"),
        pytest.param(Say(text="half of an answer", malformed=True), id="malformed"),
        pytest.param(Say(text="late", silent=1.0), id="silent"),
    ],
)
def test_a_passing_fault_is_tried_again_and_recorded(api: str, bad: Say) -> None:
    with Server(first(bad, OK)) as server:
        asking = Asking(server, api, idle=0.3)
        assert asking.ask().text == OK.text
        assert len(asking.calls) == len(server.asked) == 2
        assert asking.calls[0].error
        assert not asking.calls[1].error
        counted = sum(call.tokens_in + call.tokens_out for call in asking.calls)
        assert counted == asking.spending.tokens


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    with Server(first(Say(status=429, headers={"retry-after": "7"}), OK)) as server:
        asking = Asking(server)
        monkeypatch.setattr(asking.model.stopping, "wait", waited.append)
        asking.ask()
    assert waited == [7.0]


@Api
def test_an_endless_answer_is_given_up_when_the_time_is_over(api: str) -> None:
    with Server(first(Say(text="and so on ", endless=True))) as server:
        asking = Asking(server, api)

        def late(length: int) -> None:
            if length > 20:
                asking.model.stopping.set()

        with pytest.raises(UnansweredError) as caught:
            asking.model.ask(QUESTION, asking.calls.append, late)
        assert caught.value.trouble is Trouble.STOPPED
        with pytest.raises(UnansweredError):
            asking.model.ask(QUESTION, asking.calls.append)
        assert len(server.asked) == len(asking.calls) == 1


def test_a_retry_after_beyond_reason_is_given_up_at_once() -> None:
    with Server(first(Say(status=429, headers={"retry-after": "4000"}))) as server:
        asking = Asking(server)
        assert asking.trouble() is Trouble.RATE_LIMITED
        assert len(server.asked) == 1


@Api
def test_a_lasting_fault_ends_after_a_bounded_number_of_tries(api: str) -> None:
    with Server(first(Say(status=500))) as server:
        asking = Asking(server, api)
        assert asking.trouble() is Trouble.SERVER
        assert len(server.asked) == len(asking.calls) == 5
        assert asking.spending.tokens == 0


@pytest.mark.parametrize(("status", "trouble"), [(401, Trouble.DENIED), (404, Trouble.UNSUPPORTED)])
def test_what_no_retry_can_help_is_not_tried_again(status: int, trouble: Trouble) -> None:
    with Server(first(Say(status=status))) as server:
        assert Asking(server).trouble() is trouble
        assert len(server.asked) == 1


@Api
def test_refusal_and_truncation_are_ordinary_answers(api: str) -> None:
    with Server(first(Say(refusal="I would rather not."))) as server:
        asking = Asking(server, api)
        reply = asking.ask()
        assert reply.refused
        assert reply.text == "I would rather not."
        assert asking.calls[0].error == "refused"
    with Server(first(Say(text="half", finish="length"))) as server:
        assert Asking(server, api).ask().truncated


def test_an_endless_answer_is_hung_up_on() -> None:
    with Server(first(Say(text="x" * 5000, endless=True))) as server:
        asking = Asking(server)
        assert asking.trouble() is Trouble.TOO_LONG
        assert len(server.asked) == 1
        assert 30_000 <= asking.calls[0].tokens_out < 50_000


@Api
def test_an_endpoint_without_usage_is_estimated_and_says_so(api: str) -> None:
    with Server(first(Say(text="x" * 400, usage=False))) as server:
        asking = Asking(server, api)
        reply = asking.ask()
        assert not reply.usage.measured
        assert reply.usage.tokens_out == 100
        assert "estimated" in asking.calls[0].error
        assert asking.spending.tokens > 100


def test_an_endpoint_that_turns_parameters_down_is_asked_without_them() -> None:
    def picky(asked: Asked) -> Say:
        for name in ("response_format", "stream_options"):
            if name in asked.body:
                return Say(status=400, error=f"unknown parameter {name}")
        return OK

    schema = Schema("answer", {"type": "object"})
    with Server(picky) as server:
        asking = Asking(server)
        assert asking.ask(Question(messages=QUESTION.messages, schema=schema)).text == OK.text
        assert len(server.asked) == 3
        asking.ask(Question(messages=QUESTION.messages, schema=schema))
        assert len(server.asked) == 4


def test_a_server_that_heeds_no_schema_is_hung_up_on_and_asked_the_short_question() -> None:
    def heedless(asked: Asked) -> Say:
        return Say(text="7" if "number" in asked.text else "Well, that depends on " + "x " * 4000)

    short = Question(messages=(Message("user", "Which number?"),), most_tokens=16)
    long = replace(QUESTION, schema=Schema("answer", {"type": "object"}), unheld=short)
    with Server(heedless) as server:
        asking = Asking(server)
        assert asking.ask(long).text == "7"
        assert asking.ask(long).text == "7"
        assert [asked.text for asked in server.asked] == ["Why?", "Which number?", "Which number?"]
    assert "holds no schema" in asking.calls[0].error
    with Server(first(Say(text='{"answer": 7, "more": 8}'))) as server:
        asking = Asking(server)
        asking.ask(long)
        asking.ask(long)
        assert [asked.text for asked in server.asked] == ["Why?", "Why?"]


@Api
def test_a_schema_is_passed_on_in_the_apis_own_form(api: str) -> None:
    with Server(first(OK)) as server:
        schema = Schema("answer", {"type": "object"})
        Asking(server, api).ask(Question(messages=QUESTION.messages, schema=schema))
        body = server.asked[0].body
        form = body["response_format"] if api == "chat" else body["text"]["format"]
        assert form["type"] == "json_schema"
        if api == "responses":
            assert body["store"] is False


def test_a_call_that_could_pass_the_budget_is_not_made() -> None:
    with Server(first(OK)) as server:
        asking = Asking(server, spending=Spending(most_tokens=1000))
        assert asking.trouble() is Trouble.BUDGET
        small = Question(messages=QUESTION.messages, most_tokens=500)
        asking.ask(small)
        assert len(server.asked) == 1
        assert asking.spending.tokens == server.tokens_in + server.tokens_out
    with Server(first(OK)) as server:
        asking = Asking(server, spending=Spending(most_usd=0.01))
        assert asking.trouble() is Trouble.BUDGET
        assert not server.asked


def test_an_unknown_price_is_unknown_and_never_passes_a_budget_in_usd() -> None:
    with Server(first(OK)) as server:
        asking = Asking(server, price=None)
        assert asking.ask().usd is None
        assert Asking(server, price=None, spending=Spending(most_usd=5)).trouble() is Trouble.BUDGET


def test_a_key_is_in_no_text_that_leaves_the_module() -> None:
    def echo(asked: Asked) -> Say:
        secret = asked.headers["authorization"]
        if asked.number == 0:
            return Say(status=500, error=secret)
        return Say(text=f"your header is {secret}")

    with Server(echo) as server:
        asking = Asking(server)
        reply = asking.ask()
        assert "your header is" in reply.text
        assert CANARY not in reply.text + repr(asking.calls) + repr(asking.model)


def test_nobody_there_is_missing_and_says_where() -> None:
    with Server(first(OK)) as server:
        assert "scripted" in Asking(server).model.check()
        address = server.url
    asking_nobody: list[Call] = []
    model = Model(Endpoint(name="m", base_url=address), None, Spending(), first_wait=0.01)
    with pytest.raises(MissingError, match="no language model answers at 127"):
        model.check()
    with pytest.raises(UnansweredError) as caught:
        model.ask(QUESTION, asking_nobody.append)
    assert caught.value.trouble is Trouble.UNREACHABLE


def test_a_person_can_price_a_model_and_a_broken_table_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text("[mine]\ninput = 1\noutput = 3\n")
    assert prices(own)["mine"].output == 3
    assert prices(own).keys() > {"gpt-5-mini"}
    own.write_text("[mine]\ninput = -1\noutput = 3\n")
    with pytest.raises(UsageError, match=r"prices\.toml"):
        prices(own)
