"""The two dialects of the OpenAI protocol: what is sent, and what is taken in of an answer.

``client`` is the SDK's; :mod:`nightlab.agents.model` alone makes one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nightlab.agents.question import Endpoint, Question, Trouble
from nightlab.agents.spending import Usage


@dataclass
class Answer:
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


class Failed(Exception):  # noqa: N818
    """One request that failed."""

    def __init__(
        self, trouble: Trouble, words: str, after: float | None = None, lack: str = ""
    ) -> None:
        super().__init__(f"{trouble}: {words}" if not words.startswith(trouble) else words)
        self.trouble, self.words, self.after, self.lack = trouble, words, after, lack


def _count(value: object) -> int | None:
    """A number of tokens; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def usage_of(usage: object, into: str, out: str) -> Usage | None:
    """The usage under an API's own names; None where it is missing or makes no sense."""
    tokens_in, tokens_out = _count(getattr(usage, into, None)), _count(getattr(usage, out, None))
    if tokens_in is None or tokens_out is None:
        return None
    details = getattr(usage, f"{into}_details", None)
    cached = _count(getattr(details, "cached_tokens", None)) or 0
    return Usage(tokens_in=tokens_in, cached_in=min(cached, tokens_in), tokens_out=tokens_out)


def chat(
    client: Any, endpoint: Endpoint, question: Question, answer: Answer, lacks: set[str]
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


def _chat_choice(chunk: object, answer: Answer, part: str) -> None:
    """Take in one chunk of a stream, or a whole answer."""
    answer.events += 1
    answer.usage = usage_of(
        getattr(chunk, "usage", None), "prompt_tokens", "completion_tokens"
    ) or (answer.usage)
    for choice in (getattr(chunk, "choices", None) or [])[:1]:
        said = getattr(choice, part, None)
        answer.text += getattr(said, "content", None) or ""
        answer.refusal += getattr(said, "refusal", None) or ""
        if reason := choice.finish_reason:
            ends = {"length": "truncated", "content_filter": "refused"}
            answer.ended = ends.get(reason, "complete")


def responses(
    client: Any, endpoint: Endpoint, question: Question, answer: Answer, lacks: set[str]
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
                raise Failed(Trouble.SERVER, str(event.message))
        yield


def _response(response: Any, answer: Answer) -> None:
    """Take in a whole response: its usage and how it ended."""
    answer.events += 1
    answer.usage = usage_of(response.usage, "input_tokens", "output_tokens") or answer.usage
    if not answer.text and not answer.refusal:
        for item in response.output or []:
            for part in getattr(item, "content", None) or []:
                answer.text += getattr(part, "text", None) or ""
                answer.refusal += getattr(part, "refusal", None) or ""
    if response.status == "failed":
        raise Failed(Trouble.SERVER, str(getattr(response.error, "message", "failed")))
    answer.ended = "complete"
    if response.status == "incomplete":
        why = getattr(response.incomplete_details, "reason", "")
        answer.ended = "refused" if why == "content_filter" else "truncated"
