"""The first process inside a sandbox: warm before its job is known, then serves one program.

It imports torch, says ``ready``, and answers messages on its channel until the channel closes.
Nothing it answers is trusted. As ``--listen PATH`` it forks one worker per connection, which the
``process`` tier uses: a fork costs milliseconds where an import costs seconds.
"""

import contextlib
import json
import os
import select
import signal
import socket
import socketserver
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nightlab.sandbox.guest import oracle, script, seal, train
from nightlab.sandbox.guest.init import watch
from nightlab.sandbox.guest.program import load
from nightlab.sandbox.guest.windows import Source
from nightlab.sandbox.guest.wire import Array, Message, encode, receive

MAX_JOB_BYTES = 2 << 30
Answer = tuple[Mapping[str, object], Sequence[Array]]


class Channel:
    """Whole messages over one connected socket or a pair of pipes."""

    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self.incoming, self.outgoing = incoming, outgoing

    def read(self, size: int) -> bytes:
        data: bytes = self.incoming.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def receive(self) -> Message:
        return receive(self.read, max_array_bytes=MAX_JOB_BYTES)

    def send(self, header: Mapping[str, object], arrays: Sequence[Array] = ()) -> None:
        for chunk in encode(Message(header, arrays)):
            self.outgoing.write(chunk)
        self.outgoing.flush()


class Worker:
    """Answers one request after another about one program."""

    def __init__(self, channel: Channel, root: int, sealed: bool) -> None:
        """``root`` is the first process of the cell, as this process sees it."""
        self.channel = channel
        self.hello = {"ready": True, "pid": root, "sealed": sealed, "torch": torch.__version__}
        self.program: ModuleType | None = None
        self.oracle: oracle.Oracle | script.Oracle | None = None
        self.script: Path | None = None

    def serve(self) -> None:
        """Answer until the host closes the channel."""
        self.channel.send(self.hello)
        while True:
            try:
                request = self.channel.receive()
            except EOFError:
                return
            try:
                header, arrays = self._answer(request)
            except BaseException as error:
                trace = traceback.format_exc()
                print(trace, file=sys.stderr)
                kind = type(error).__name__
                header, arrays = {"error": f"{kind}: {error}"[:2000], "trace": trace[-4000:]}, ()
            with contextlib.suppress(Exception):  # both may be the program's by now
                sys.stdout.flush()
                sys.stderr.flush()
            self.channel.send(header, arrays)

    def _answer(self, request: Message) -> Answer:
        job: Mapping[str, Any] = request.header
        match job.get("do"):
            case "smoke" if "script" in job:
                script.smoke(self._script(job), job)
                return {"ok": True}, ()
            case "train" if "script" in job:
                script.train(self._script(job), job)
                return {"ok": True}, ()
            case "open" if "script" in job:
                self.oracle = script.Oracle(self._script(job), job["outputs"], request.arrays)
                return {"ok": True, **self.oracle.facts}, ()
            case "smoke":
                train.smoke(self._program(job), _train_job(job))
                return {"ok": True}, ()
            case "train":
                train.train(self._program(job), _train_job(job), self._report)
                return {"ok": True}, ()
            case "open":
                self.oracle = _open(self._program(job), request.arrays, str(job["device"]))
                return {"ok": True, **self.oracle.facts}, ()
            case str(what) if self.oracle is not None:
                header, found = self.oracle.answer(what, request.arrays, job)
                return {"ok": True, **header}, found
            case other:
                raise ValueError(f"unknown request {other!r}")

    def _program(self, job: Mapping[str, Any]) -> ModuleType:
        if self.program is None:
            self.program = load(job["files"])
        return self.program

    def _script(self, job: Mapping[str, Any]) -> Path:
        if self.script is None:
            self.script = script.folder_of(job["files"]) / job["script"]
        return self.script

    def _report(self, point: Mapping[str, Any]) -> None:
        self.channel.send({"point": point})


def _train_job(job: Mapping[str, Any]) -> train.TrainJob:
    return train.TrainJob(
        seed=job["seed"],
        budget_seconds=job["budget_seconds"],
        sources=[_source(source) for source in job["data"]],
        out=Path(job["out"]),
        max_context=job["max_context"],
        shortest=job.get("shortest", 0),
        device=job["device"],
    )


def _source(source: Mapping[str, Any]) -> Source:
    mask = source.get("mask")
    return Source(Path(source["tokens"]), Path(mask) if mask else None, source.get("row"))


def _open(program: ModuleType, arrays: Sequence[Array], device: str) -> oracle.Oracle:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(arrays[0].tobytes())
        file.flush()
        return oracle.Oracle(program, Path(file.name), device)


def serve_pipes(sealed: bool = False) -> None:
    """Serve on standard input and output; whatever the program prints goes to standard error."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _prepare(int(os.environ.get("NIGHTLAB_THREADS", "1")))
    if Path("/data").exists():  # without data it will be an oracle, which never takes a step
        _warm()
    Worker(Channel(incoming, outgoing), os.getpid(), sealed).serve()


def _warm() -> None:
    """Take one optimizer step: torch imports about a second's worth of modules at the first."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)


class _Forks(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 64

    def service_actions(self) -> None:
        super().service_actions()
        if select.select([sys.stdin], [], [], 0)[0]:  # the host closed its end, or died
            os._exit(0)


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Serve one cell in a forked child of the server: a reaper and, below it, the worker."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        seal.prctl(seal.PR_SET_PDEATHSIG, signal.SIGTERM)  # on which its reaper buries everything
        os.setsid()
        connection: socket.socket = self.request
        payload, (log, *_), _, _ = socket.recv_fds(connection, 65536, 1)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        keeper = os.getpid()
        connection.sendall(keeper.to_bytes(4, "big"))
        connection.recv(1)  # the host has put this process into its control group
        watch(lambda: _serve_connection(connection, json.loads(payload), keeper))


def _serve_connection(connection: socket.socket, settings: Mapping[str, Any], keeper: int) -> None:
    seal.prctl(seal.PR_SET_PDEATHSIG, signal.SIGKILL)
    tempfile.tempdir = settings["tmp"]
    os.chdir(settings["tmp"])
    sealed = seal.apply(seal.Seal(**settings["seal"]))
    _prepare(settings["threads"])
    channel = Channel(connection.makefile("rb"), connection.makefile("wb"))
    Worker(channel, keeper, sealed).serve()


def main(arguments: Sequence[str]) -> None:
    """``worker --listen PATH`` forks one worker for every connection."""
    _warm()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps dead cells
    with _Forks(arguments[1], _Connection) as server:
        print("listening", flush=True)
        server.serve_forever(poll_interval=1.0)


if __name__ == "__main__":
    main(sys.argv[1:])
