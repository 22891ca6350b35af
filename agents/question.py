"""A question to a language model, whom it goes to, and what can come of it; no network here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from nightlab.agents.spending import Usage
from nightlab.errors import ModelError
from nightlab.memory.records import JSON, Call


class Trouble(StrEnum):
    """Why a question has no usable answer."""

    RATE_LIMITED = "rate limited"
    SERVER = "server error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    CUT = "cut stream"
    MALFORMED = "malformed answer"
    EMPTY = "empty answer"
    DENIED = "access denied"
    UNSUPPORTED = "unsupported request"
    TOO_LONG = "endless answer"
    BUDGET = "budget spent"
    STOPPED = "stopped"


RETRIED = frozenset(
    {Trouble.RATE_LIMITED, Trouble.SERVER, Trouble.TIMEOUT, Trouble.UNREACHABLE, Trouble.CUT}
    | {Trouble.MALFORMED, Trouble.EMPTY}
)
LASTING = frozenset({Trouble.UNREACHABLE, Trouble.DENIED, Trouble.UNSUPPORTED, Trouble.BUDGET})
"""Troubles after which asking the same model again is of no use."""


UNANSWERED = "the model did not answer"
"""How the reason of an experiment begins that its author could not work on."""


class UnansweredError(ModelError):
    """A question that got no usable answer, whatever was tried."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(f"{trouble}: {message}")
        self.trouble = trouble


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Schema:
    """What JSON the answer must be, for endpoints that can hold a model to it."""

    name: str
    schema: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A whole conversation: no server is asked to remember anything."""

    messages: tuple[Message, ...]
    schema: Schema | None = None
    most_tokens: int = 8192
    """Of the reply, reasoning included."""
    unheld: "Question | None" = None
    """What is asked instead where the server cannot hold a model to the schema."""

    @property
    def text(self) -> str:
        """The conversation as it is stored."""
        return "\n\n".join(f"[{m.role}]\n{m.text}" for m in self.messages)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model answered."""

    text: str
    usage: Usage
    usd: float | None
    """None when the price is not known."""
    refused: bool = False
    """The model declined; ``text`` is its reason."""
    truncated: bool = False
    """It ran into the most tokens it was given."""


Recorder = Callable[[Call], None]
Hear = Callable[[int], None]
"""Told the characters of the reply so far."""


def unheard(characters: int) -> None:
    """For who does not watch."""
    del characters


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model is and how it is asked."""

    name: str
    base_url: str | None = None
    """None for OpenAI's own."""
    key: SecretStr | None = None
    api: Literal["auto", "responses", "chat"] = "auto"
    idle_seconds: float = 120.0
    """Longest silence before and within an answer."""
    answer_seconds: float = 600.0
    """Longest answer as a whole."""

    @property
    def responses(self) -> bool:
        """Whether the Responses API is spoken, otherwise Chat Completions."""
        return self.api == "responses" or (self.api == "auto" and self.openai)

    @property
    def openai(self) -> bool:
        """Whether this is OpenAI's own server."""
        return self.base_url is None or urlsplit(self.base_url).hostname == "api.openai.com"

    @property
    def place(self) -> str:
        """The server for people, without what a URL may hide."""
        if self.base_url is None:
            return "api.openai.com"
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    def hidden(self, text: str) -> str:
        """The text without this endpoint's secrets."""
        parts = urlsplit(self.base_url or "")
        key = self.key.get_secret_value() if self.key else ""
        for secret in (key, parts.password or "", parts.query):
            if len(secret) >= 4:
                text = text.replace(secret, "[hidden]")
        return text


class LanguageModel(Protocol):
    """Whoever answers questions."""

    @property
    def name(self) -> str:
        """The author's name."""
        ...

    def ask(self, question: Question, record: Recorder, hear: Hear = unheard) -> Reply:
        """The answer. Every request is handed to ``record`` once.

        Raises:
            UnansweredError: there is none; says which trouble stood in the way.
        """
        ...
