"""Language models behind one question and one reply: the only module that imports ``openai``.

    model = Model(Endpoint(name="gpt-5-mini", key=SecretStr(...)), price, spending)
    model.check()                                   # MissingError where nobody answers
    reply = model.ask(Question(messages=(Message("user", "..."),)), record=store)

OpenAI is asked through its Responses API, every other server through Chat Completions. A question
is tried again here and nowhere else. Each request that was made is handed to ``record`` once, with
the tokens it used; keys leave this module in no text, not even where a server echoes them.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from openai import OpenAI

from nightlab.agents.question import (
    RETRIED,
    Endpoint,
    Hear,
    Question,
    Recorder,
    Reply,
    Trouble,
    UnansweredError,
    unheard,
)
from nightlab.agents.spending import BudgetSpentError, Price, Spending, Usage
from nightlab.errors import MissingError
from nightlab.memory.records import Call

TRIES = 5
LONGEST_WAIT = 120.0
"""Seconds of a ``Retry-After`` that are waited for; who asks for more is given up."""
FIRST_WAIT = 0.5
LONGEST_TOKEN = 16
"""Characters of a token at most: beyond, a server does not keep to the limit that it was given."""
BYTES_A_TOKEN = 2
"""Lower bound on the bytes of a token in a prompt: what is reserved is rather too much."""
ESTIMATED_BYTES_A_TOKEN = 4
"""For what an endpoint does not report."""


@dataclass
class _Answer:
    """What has been heard of one answer; kept however it ends."""

    text: str = ""
    refusal: str = ""
    usage: Usage | None = None
    ended: str = ""
    """Why the server says it ended; empty while it has not."""
    events: int = 0

    @property
    def begun(self) -> bool:
        return bool(self.text or self.refusal or self.events)


@dataclass
class Model:
    """One model at one endpoint; many threads may ask it."""

    endpoint: Endpoint
    price: Price | None
    spending: Spending
    stopping: threading.Event = field(default_factory=threading.Event)
    """When set, nobody waits for another try."""
    first_wait: float = FIRST_WAIT
    _lacks: set[str] = field(default_factory=set)
    """What the endpoint turned down: ``stream``, ``schema``, ``usage``."""

    def __post_init__(self) -> None:
        self.name = self.endpoint.name
        key = self.endpoint.key
        self._client = OpenAI(
            api_key=key.get_secret_value() if key else "none",
            base_url=self.endpoint.base_url or "https://api.openai.com/v1",
            max_retries=0,
            timeout=openai.Timeout(self.endpoint.idle_seconds, connect=5.0),
        )

    def check(self) -> str:
        """Whether somebody answers there; a line for people.

        Raises:
            MissingError: nobody does, or the key is refused.
        """
        name, place = self.endpoint.name, self.endpoint.place
        try:
            known = [str(each.id) for each in self._client.models.list().data]
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise MissingError(f"{place} refuses the key: set OPENAI_API_KEY") from None
        except openai.APIStatusError as error:
            if error.status_code < 500:
                return f"{name} at {place}"
            raise MissingError(f"{place} answers {error.status_code}: is it ready?") from None
        except openai.APIConnectionError:
            raise MissingError(
                f"no language model answers at {place}: start the server, or set OPENAI_BASE_URL"
            ) from None
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TypeError, AttributeError):
            return f"{name} at {place}"
        listed = "" if name in known or not known else f" (it lists {', '.join(known[:5])})"
        return f"{name} at {place}{listed}"

    def ask(self, question: Question, record: Recorder, hear: Hear = unheard) -> Reply:
        """The answer, after as many tries as it takes.

        Raises:
            UnansweredError: there is none; says which trouble stood in the way.
        """
        tries = 0
        while True:
            tries += 1
            try:
                return self._once(question, record, hear)
            except _Failed as failed:
                lack = failed.lack
                if lack and lack not in self._lacks:
                    self._lacks.add(lack)
                    tries -= 1
                    continue
                self._wait(failed, tries)

    def _wait(self, failed: "_Failed", tries: int) -> None:
        where = f"{self.name} at {self.endpoint.place}"
        if failed.trouble not in RETRIED or tries >= TRIES:
            times = f" (tried {tries} times)" if tries > 1 else ""
            raise UnansweredError(failed.trouble, f"{where}: {failed.words}{times}")
        wait = self.first_wait * 2.0 ** (tries - 1)
        if failed.after is not None:
            wait = max(wait, failed.after)
        if wait > LONGEST_WAIT:
            raise UnansweredError(failed.trouble, f"{where} asks to wait {wait:.0f} s")
        if self.stopping.wait(wait):
            raise UnansweredError(Trouble.STOPPED, f"{where} was not asked again")

    def _once(self, question: Question, record: Recorder, hear: Hear) -> Reply:
        """One request, accounted for whatever became of it."""
        prompt = len(question.text.encode())
        try:
            hold = self.spending.reserve(
                prompt // BYTES_A_TOKEN + 16, question.most_tokens, self.price
            )
        except BudgetSpentError as error:
            raise UnansweredError(Trouble.BUDGET, str(error)) from None
        answer, failed, started = _Answer(), None, time.monotonic()
        usage, usd = Usage(), None
        try:
            failed = self._listen(question, answer, hear)
        finally:
            usage = answer.usage or self._estimate(prompt, answer)
            usd = self.price.of(usage) if self.price else None
            self.spending.settle(hold, usage, usd)
        text = self.endpoint.hidden(answer.refusal or answer.text)
        fault = self.endpoint.hidden(str(failed)) if failed else ""
        call = Call(
            model=self.name,
            prompt=self.endpoint.hidden(question.text),
            reply=text,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            latency_seconds=time.monotonic() - started,
            usd=usd,
            error=fault or _remark(answer, usage),
        )
        record(call)
        if failed is not None:
            words = self.endpoint.hidden(failed.words)
            raise _Failed(failed.trouble, words, failed.after, failed.lack)
        return Reply(
            text=text,
            usage=usage,
            usd=usd,
            refused=bool(answer.refusal) or answer.ended == "refused",
            truncated=answer.ended == "truncated",
        )

    def _estimate(self, prompt: int, answer: _Answer) -> Usage:
        """For an answer without usage; a request that was turned down used nothing."""
        if not answer.begun:
            return Usage()
        out = len((answer.text + answer.refusal).encode())
        return Usage(
            tokens_in=-(-prompt // ESTIMATED_BYTES_A_TOKEN),
            tokens_out=-(-out // ESTIMATED_BYTES_A_TOKEN),
            measured=False,
        )

    def _listen(self, question: Question, answer: _Answer, hear: Hear) -> "_Failed | None":
        """Fill in the answer; what went wrong, or None."""
        end = time.monotonic() + self.endpoint.answer_seconds
        speak = _responses if self.endpoint.responses else _chat
        try:
            for _ in speak(self._client, self.endpoint, question, answer, self._lacks):
                hear(len(answer.text))
                if time.monotonic() > end:
                    seconds = self.endpoint.answer_seconds
                    return _Failed(Trouble.TIMEOUT, f"no end after {seconds:g} s")
                most = LONGEST_TOKEN * question.most_tokens
                if len(answer.text) > most:
                    return _Failed(Trouble.TOO_LONG, f"over {most} characters")
        except Exception as error:  # whatever a server can make the SDK throw
            return _failure(error, answer)
        if answer.ended:
            return None
        if not answer.begun and "stream" not in self._lacks:
            return _Failed(Trouble.EMPTY, "no event in the stream", lack="stream")
        return _Failed(Trouble.CUT if answer.begun else Trouble.EMPTY, "it ended without an end")


class _Failed(Exception):  # noqa: N818
    """One request that failed."""

    def __init__(
        self, trouble: Trouble, words: str, after: float | None = None, lack: str = ""
    ) -> None:
        super().__init__(f"{trouble}: {words}" if not words.startswith(trouble) else words)
        self.trouble, self.words, self.after, self.lack = trouble, words, after, lack


def _remark(answer: _Answer, usage: Usage) -> str:
    """What a person should know of an answer that was taken."""
    if answer.refusal or answer.ended == "refused":
        return "refused"
    if answer.ended == "truncated":
        return "truncated"
    return "" if usage.measured else "no usage reported: tokens estimated"


def _failure(error: Exception, answer: _Answer) -> _Failed:
    """An exception of the SDK as a trouble."""
    if isinstance(error, _Failed):
        return error
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, openai.APIStatusError):
        return _status(error, words)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return _Failed(Trouble.TIMEOUT, "silent for too long")
    if isinstance(error, httpx2.ConnectError):
        return _Failed(Trouble.UNREACHABLE, words)
    if isinstance(error, openai.APIConnectionError):
        dropped = answer.begun or isinstance(error.__cause__, httpx2.RemoteProtocolError)
        return _Failed(Trouble.CUT if dropped else Trouble.UNREACHABLE, words)
    if isinstance(error, httpx2.HTTPError):
        return _Failed(Trouble.CUT, words)
    if isinstance(error, openai.APIError) and not isinstance(
        error, openai.APIResponseValidationError
    ):
        return _Failed(Trouble.SERVER, words)
    return _Failed(Trouble.MALFORMED, f"{type(error).__name__}: {words}")


LACKS = {
    "schema": ("response_format", "text.format", "json_schema", "json schema", "grammar"),
    "usage": ("stream_options", "include_usage"),
    "stream": ("stream",),
    "max_tokens": ("max_tokens", "max_completion_tokens"),
}
"""What an endpoint can do without, by the words of its complaint."""


def _status(error: openai.APIStatusError, words: str) -> _Failed:
    code = error.status_code
    if code == 429:
        return _Failed(Trouble.RATE_LIMITED, words, after=_retry_after(error))
    if code in (408, 409) or code >= 500:
        return _Failed(Trouble.SERVER, words, after=_retry_after(error))
    if code in (401, 403):
        return _Failed(Trouble.DENIED, words)
    lower = words.lower()
    lack = next((lack for lack, said in LACKS.items() if any(w in lower for w in said)), "")
    return _Failed(Trouble.UNSUPPORTED, words, lack=lack if code in (400, 422) else "")


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks for; None where it does not, or says it in no number."""
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _count(value: object) -> int | None:
    """A number of tokens; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _usage(usage: object, into: str, out: str) -> Usage | None:
    """The usage under an API's own names; None where it is missing or makes no sense."""
    tokens_in, tokens_out = _count(getattr(usage, into, None)), _count(getattr(usage, out, None))
    if tokens_in is None or tokens_out is None:
        return None
    details = getattr(usage, f"{into}_details", None)
    cached = _count(getattr(details, "cached_tokens", None)) or 0
    return Usage(tokens_in=tokens_in, cached_in=min(cached, tokens_in), tokens_out=tokens_out)


def _chat(
    client: OpenAI, endpoint: Endpoint, question: Question, answer: _Answer, lacks: set[str]
) -> Iterator[None]:
    """Chat Completions: what every server speaks."""
    limit = "max_completion_tokens" if endpoint.openai else "max_tokens"
    if "max_tokens" in lacks:
        limit = "max_tokens" if endpoint.openai else "max_completion_tokens"
    request: dict[str, Any] = {
        "model": endpoint.name,
        "messages": [{"role": m.role, "content": m.text} for m in question.messages],
        limit: question.most_tokens,
    }
    if question.schema and "schema" not in lacks:
        form = {"name": question.schema.name, "schema": question.schema.schema, "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": form}
    if "stream" in lacks:
        _chat_choice(client.chat.completions.create(**request), answer, "message")
        yield
        return
    if "usage" not in lacks:
        request["stream_options"] = {"include_usage": True}
    for chunk in client.chat.completions.create(**request, stream=True):
        _chat_choice(chunk, answer, "delta")
        yield


def _chat_choice(chunk: object, answer: _Answer, part: str) -> None:
    """Take in one chunk of a stream, or a whole answer."""
    answer.events += 1
    answer.usage = _usage(getattr(chunk, "usage", None), "prompt_tokens", "completion_tokens") or (
        answer.usage
    )
    for choice in (getattr(chunk, "choices", None) or [])[:1]:
        said = getattr(choice, part, None)
        answer.text += getattr(said, "content", None) or ""
        answer.refusal += getattr(said, "refusal", None) or ""
        if reason := choice.finish_reason:
            ends = {"length": "truncated", "content_filter": "refused"}
            answer.ended = ends.get(reason, "complete")


def _responses(
    client: OpenAI, endpoint: Endpoint, question: Question, answer: _Answer, lacks: set[str]
) -> Iterator[None]:
    """The Responses API, nothing stored on the server."""
    request: dict[str, Any] = {
        "model": endpoint.name,
        "input": [{"role": m.role, "content": m.text} for m in question.messages],
        "max_output_tokens": question.most_tokens,
        "store": False,
    }
    if question.schema and "schema" not in lacks:
        form = {"name": question.schema.name, "schema": question.schema.schema, "strict": True}
        request["text"] = {"format": {"type": "json_schema", **form}}
    if "stream" in lacks:
        _response(client.responses.create(**request), answer)
        yield
        return
    for event in client.responses.create(**request, stream=True):
        answer.events += 1
        match event.type:
            case "response.output_text.delta":
                answer.text += event.delta
            case "response.refusal.delta":
                answer.refusal += event.delta
            case "response.completed" | "response.incomplete" | "response.failed":
                _response(event.response, answer)
            case "error":
                raise _Failed(Trouble.SERVER, str(event.message))
        yield


def _response(response: Any, answer: _Answer) -> None:
    """Take in a whole response: its usage and how it ended."""
    answer.events += 1
    answer.usage = _usage(response.usage, "input_tokens", "output_tokens") or answer.usage
    if not answer.text and not answer.refusal:
        for item in response.output or []:
            for part in getattr(item, "content", None) or []:
                answer.text += getattr(part, "text", None) or ""
                answer.refusal += getattr(part, "refusal", None) or ""
    if response.status == "failed":
        raise _Failed(Trouble.SERVER, str(getattr(response.error, "message", "failed")))
    answer.ended = "complete"
    if response.status == "incomplete":
        why = getattr(response.incomplete_details, "reason", "")
        answer.ended = "refused" if why == "content_filter" else "truncated"
