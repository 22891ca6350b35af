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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import httpx2
import openai
from openai import OpenAI

from nightlab.agents.dialects import Answer, Failed, chat, responses, usage_of
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
SEEN = 8
"""Characters after which it shows whether an answer is JSON."""
NOT_READY = (502, 503, 504)
"""What a server answers while it loads; it may fail otherwise at listing models and still serve."""
LONGEST_TOKEN = 16
"""Characters of a token at most: beyond, a server does not keep to the limit that it was given."""
BYTES_A_TOKEN = 2
"""Lower bound on the bytes of a token in a prompt: what is reserved is rather too much."""
ESTIMATED_BYTES_A_TOKEN = 4
"""For what an endpoint does not report."""


@dataclass
class Model:
    """One model at one endpoint; many threads may ask it."""

    endpoint: Endpoint
    price: Price | None
    spending: Spending
    stopping: threading.Event = field(default_factory=threading.Event)
    """When set, an answer under way is given up, and nobody is asked or waited for again."""
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
            if error.status_code not in NOT_READY:
                return f"{name} at {place} (it lists no models)"
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
            if self.stopping.is_set():
                raise UnansweredError(Trouble.STOPPED, f"{self.name} was not asked: it is late")
            if question.unheld is not None and "schema" in self._lacks:
                question = question.unheld
            try:
                return self._once(question, record, hear)
            except Failed as failed:
                lack = failed.lack
                if lack and lack not in self._lacks:
                    self._lacks.add(lack)
                    tries -= 1
                    continue
                self._wait(failed, tries)

    def _wait(self, failed: Failed, tries: int) -> None:
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
        answer, failed, started = Answer(), None, time.monotonic()
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
            raise Failed(failed.trouble, words, failed.after, failed.lack)
        return Reply(
            text=text,
            usage=usage,
            usd=usd,
            refused=bool(answer.refusal) or answer.ended == "refused",
            truncated=answer.ended == "truncated",
        )

    def _estimate(self, prompt: int, answer: Answer) -> Usage:
        """For an answer without usage; a request that was turned down used nothing."""
        if not answer.begun:
            return Usage()
        out = len((answer.text + answer.refusal).encode())
        return Usage(
            tokens_in=-(-prompt // ESTIMATED_BYTES_A_TOKEN),
            tokens_out=-(-out // ESTIMATED_BYTES_A_TOKEN),
            measured=False,
        )

    def embed(self, texts: Sequence[str], record: Recorder) -> list[list[float]]:
        """A vector for each text, by an embedding model; asked once, not tried again.

        Raises:
            UnansweredError: there is none.
        """
        size, started = sum(len(text.encode()) for text in texts), time.monotonic()
        try:
            hold = self.spending.reserve(size // BYTES_A_TOKEN + 16, 0, self.price)
        except BudgetSpentError as error:
            raise UnansweredError(Trouble.BUDGET, str(error)) from None
        made = self._vectors(texts)
        failed = made if isinstance(made, Failed) else None
        vectors, usage = ([], Usage()) if isinstance(made, Failed) else made
        usd = self.price.of(usage) if self.price else None
        self.spending.settle(hold, usage, usd)
        call = Call(
            model=self.name,
            prompt=f"[embedding of {len(texts)} texts, {size} bytes]",
            reply=f"{len(vectors)} vectors",
            tokens_in=usage.tokens_in,
            tokens_out=0,
            latency_seconds=time.monotonic() - started,
            usd=usd,
            error=self.endpoint.hidden(str(failed)) if failed else "",
        )
        record(call)
        if failed is not None:
            where = f"{self.name} at {self.endpoint.place}"
            raise UnansweredError(failed.trouble, f"{where}: {self.endpoint.hidden(failed.words)}")
        return vectors

    def _vectors(self, texts: Sequence[str]) -> tuple[list[list[float]], Usage] | Failed:
        try:
            made = self._client.embeddings.create(
                model=self.name, input=list(texts), encoding_format="float"
            )
            vectors = [[float(x) for x in row.embedding] for row in made.data]
            usage = usage_of(made.usage, "prompt_tokens", "prompt_tokens") or Usage(measured=False)
        except Exception as error:  # whatever a server can make the SDK throw
            return _failure(error, Answer())
        if len(vectors) != len(texts) or len({len(row) for row in vectors}) > 1:
            return Failed(Trouble.MALFORMED, "not one vector for each text")
        return vectors, replace(usage, tokens_out=0)

    def _listen(self, question: Question, answer: Answer, hear: Hear) -> Failed | None:
        """Fill in the answer; what went wrong, or None."""
        end = time.monotonic() + self.endpoint.answer_seconds
        speak = responses if self.endpoint.responses else chat
        try:
            for _ in speak(self._client, self.endpoint, question, answer, self._lacks):
                hear(len(answer.text))
                if _unheld(question, answer, self._lacks):
                    return Failed(Trouble.UNSUPPORTED, "it holds no schema", lack="schema")
                if self.stopping.is_set():
                    return Failed(Trouble.STOPPED, "given up half-way: it is late")
                if time.monotonic() > end:
                    seconds = self.endpoint.answer_seconds
                    return Failed(Trouble.TIMEOUT, f"no end after {seconds:g} s")
                most = LONGEST_TOKEN * question.most_tokens
                if len(answer.text) > most:
                    return Failed(Trouble.TOO_LONG, f"over {most} characters")
        except Exception as error:  # whatever a server can make the SDK throw
            return _failure(error, answer)
        if answer.ended:
            return None
        if not answer.begun and "stream" not in self._lacks:
            return Failed(Trouble.EMPTY, "no event in the stream", lack="stream")
        return Failed(Trouble.CUT if answer.begun else Trouble.EMPTY, "it ended without an end")


def _unheld(question: Question, answer: Answer, lacks: set[str]) -> bool:
    """Whether an answer that was to be JSON begins otherwise: the server heeds no schema."""
    if question.schema is None or question.unheld is None or "schema" in lacks:
        return False
    begun = answer.text.lstrip()
    return len(begun) >= SEEN and not begun.startswith(("{", "```", "<think"))


def _remark(answer: Answer, usage: Usage) -> str:
    """What a person should know of an answer that was taken."""
    if answer.refusal or answer.ended == "refused":
        return "refused"
    if answer.ended == "truncated":
        return "truncated"
    return "" if usage.measured else "no usage reported: tokens estimated"


def _failure(error: Exception, answer: Answer) -> Failed:
    """An exception of the SDK as a trouble."""
    if isinstance(error, Failed):
        return error
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, openai.APIStatusError):
        return _status(error, words)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return Failed(Trouble.TIMEOUT, "silent for too long")
    if isinstance(error, httpx2.ConnectError):
        return Failed(Trouble.UNREACHABLE, words)
    if isinstance(error, openai.APIConnectionError):
        dropped = answer.begun or isinstance(error.__cause__, httpx2.RemoteProtocolError)
        return Failed(Trouble.CUT if dropped else Trouble.UNREACHABLE, words)
    if isinstance(error, httpx2.HTTPError):
        return Failed(Trouble.CUT, words)
    if isinstance(error, openai.APIError) and not isinstance(
        error, openai.APIResponseValidationError
    ):
        return Failed(Trouble.SERVER, words)
    return Failed(Trouble.MALFORMED, f"{type(error).__name__}: {words}")


LACKS = {
    "schema": ("response_format", "text.format", "json_schema", "json schema", "grammar"),
    "usage": ("stream_options", "include_usage"),
    "stream": ("stream",),
    "max_tokens": ("max_tokens", "max_completion_tokens"),
}
"""What an endpoint can do without, by the words of its complaint."""


def _status(error: openai.APIStatusError, words: str) -> Failed:
    code = error.status_code
    if code == 429:
        return Failed(Trouble.RATE_LIMITED, words, after=_retry_after(error))
    if code in (408, 409) or code >= 500:
        return Failed(Trouble.SERVER, words, after=_retry_after(error))
    if code in (401, 403):
        return Failed(Trouble.DENIED, words)
    lower = words.lower()
    lack = next((lack for lack, said in LACKS.items() if any(w in lower for w in said)), "")
    return Failed(Trouble.UNSUPPORTED, words, lack=lack if code in (400, 422) else "")


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks for; None where it does not, or says it in no number."""
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
