"""A real HTTP server that speaks the OpenAI protocol and does what a script says.

    with Server(script) as server:              # script(question) -> Say(...)
        Endpoint(name="m", base_url=server.url)

It answers Chat Completions and Responses, streaming or not, counts the tokens that it reports, and
misbehaves on request.
"""

import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    number: int
    """Counted from 0."""

    @property
    def messages(self) -> list[Mapping[str, str]]:
        """The conversation, whichever API it came by."""
        found: list[Mapping[str, str]] = self.body.get("messages") or self.body.get("input") or []
        return found

    @property
    def text(self) -> str:
        """The last message."""
        return self.messages[-1]["content"]

    @property
    def conversation(self) -> str:
        """All messages."""
        return "\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True, kw_only=True)
class Say:
    """What the server does with one request."""

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = "scripted"
    """Message of an error status."""
    finish: str = "stop"
    """``length`` truncates, ``content_filter`` refuses."""
    refusal: str = ""
    usage: bool = True
    cut: bool = False
    """The connection drops in the middle of the stream."""
    open_end: bool = False
    """The stream closes in good order, but nobody said that it ended."""
    silent: float = 0.0
    """Seconds before anything is said."""
    malformed: bool = False
    """An event that is no JSON."""
    endless: bool = False
    """Repeats its text until the client hangs up."""
    tokens_out: int | None = None


Script = Callable[[Asked], Say]


def tokens(text: str) -> int:
    """This server's tokenizer: one token for four characters or less."""
    return -(-len(text) // 4)


def bag(text: str) -> list[float]:
    """A text's words counted by a hash; numbers are all the same word."""
    counts = [0.0] * 64
    for word in re.findall(r"[a-z_]+", text.lower()):
        counts[zlib.crc32(word.encode()) % 64] += 1.0
    return counts


class Server:
    """A server on a port of its own; ``with`` starts and stops it."""

    def __init__(self, script: Script, models: tuple[str, ...] = ("scripted",)) -> None:
        self.script, self.models = script, models
        self.asked: list[Asked] = []
        self.tokens_in = 0
        """As reported to clients."""
        self.tokens_out = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        outer = self

        class Handler(_Handler):
            server_ = outer

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        del format, args

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_GET(self) -> None:
        listed = [{"id": name, "object": "model"} for name in self.server_.models]
        self._json(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        server = self.server_
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/embeddings"):
            self._embed(body)
            return
        with server.lock:
            asked = Asked(
                self.path, body, {k.lower(): v for k, v in self.headers.items()}, len(server.asked)
            )
            server.asked.append(asked)
        say = server.script(asked)
        if say.silent:
            server.closing.wait(say.silent)
        if say.status != 200:
            self._json(say.status, {"error": {"message": say.error}}, say.headers)
            return
        usage = self._used(asked, say)
        chat = self.path.endswith("/chat/completions")
        if not body.get("stream"):
            whole = _chat_whole(say, usage) if chat else _response_whole(say, usage)
            self._json(200, whole, say.headers)
            return
        events = _chat_events(say, usage, body) if chat else _response_events(say, usage)
        self._stream(events, say, done=chat)

    def _embed(self, body: Mapping[str, Any]) -> None:
        """Words counted in 64 places, digits unheard; a text with "unspeakable" is an error."""
        if any("unspeakable" in text for text in body["input"]):
            self._json(500, {"error": {"message": "scripted"}})
            return
        rows = [{"index": i, "embedding": bag(text)} for i, text in enumerate(body["input"])]
        used = {"prompt_tokens": sum(tokens(text) for text in body["input"])}
        with self.server_.lock:
            self.server_.tokens_in += used["prompt_tokens"]
        self._json(200, {"object": "list", "data": rows, "usage": used, "model": body["model"]})

    def _used(self, asked: Asked, say: Say) -> tuple[int, int] | None:
        if not say.usage or say.cut or say.open_end or say.malformed or say.endless:
            return None
        used = tokens(asked.conversation), tokens(say.text + say.refusal)
        if say.tokens_out is not None:
            used = used[0], say.tokens_out
        with self.server_.lock:
            self.server_.tokens_in += used[0]
            self.server_.tokens_out += used[1]
        return used

    def _json(
        self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "content-type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[str], say: Say, *, done: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for count, event in enumerate(events):
            if say.cut and count == 2:
                self.close_connection = True
                return
            self._chunk(f"data: {event}\n\n")
        if done and not say.open_end:
            self._chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def _pieces(say: Say) -> Iterator[str]:
    size = max(1, -(-len(say.text) // 5))
    while True:
        for start in range(0, len(say.text), size):
            yield say.text[start : start + size]
        if not say.endless:
            return
        time.sleep(0)


def _chat_usage(usage: tuple[int, int]) -> dict[str, int]:
    return {
        "prompt_tokens": usage[0],
        "completion_tokens": usage[1],
        "total_tokens": sum(usage),
    }


def _chat_events(say: Say, usage: tuple[int, int] | None, body: Mapping[str, Any]) -> Iterator[str]:
    def chunk(delta: Mapping[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})

    yield chunk({"role": "assistant"})
    for piece in _pieces(say):
        yield chunk({"content": piece})
    if say.refusal:
        yield chunk({"refusal": say.refusal})
    if say.malformed:
        yield '{"id": "c", "choices": [{'
        return
    if not say.open_end:
        yield chunk({}, say.finish)
    if usage and (body.get("stream_options") or {}).get("include_usage"):
        yield json.dumps({"id": "c", "choices": [], "usage": _chat_usage(usage)})


def _chat_whole(say: Say, usage: tuple[int, int] | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": say.text, "refusal": say.refusal or None}
    choice = {"index": 0, "message": message, "finish_reason": say.finish}
    whole: dict[str, Any] = {"id": "c", "object": "chat.completion", "choices": [choice]}
    return {**whole, "usage": _chat_usage(usage)} if usage else whole


def _response_whole(say: Say, usage: tuple[int, int] | None) -> dict[str, Any]:
    ends = {"stop": "completed"}
    why = {"length": "max_output_tokens"}.get(say.finish, say.finish)
    part = (
        {"type": "refusal", "refusal": say.refusal}
        if say.refusal
        else {"type": "output_text", "text": say.text, "annotations": []}
    )
    item = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
    whole: dict[str, Any] = {
        "id": "r",
        "object": "response",
        "status": ends.get(say.finish, "incomplete"),
        "incomplete_details": None if say.finish == "stop" else {"reason": why},
        "output": [item],
    }
    if usage:
        counted = {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
        details: dict[str, Any] = {
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        whole["usage"] = {**counted, **details}
    return whole


def _response_events(say: Say, usage: tuple[int, int] | None) -> Iterator[str]:
    def event(kind: str, **fields: object) -> str:
        return json.dumps({"type": kind, "sequence_number": 0, **fields})

    yield event("response.created", response=_response_whole(Say(), None))
    for piece in _pieces(say):
        yield event("response.output_text.delta", delta=piece)
    if say.refusal:
        yield event("response.refusal.delta", delta=say.refusal)
    if say.malformed:
        yield '{"type": "response.comp'
        return
    if not say.open_end:
        end = "response.completed" if say.finish == "stop" else "response.incomplete"
        yield event(end, response=_response_whole(say, usage))
