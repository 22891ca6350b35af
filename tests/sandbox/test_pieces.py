"""Channel, log, reaper, warm pool and choice of tier, each by itself."""

import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import MissingError, SandboxError, UsageError
from nightlab.sandbox import cgroup, image, leftovers, reaper
from nightlab.sandbox.attached import AttachedChannel
from nightlab.sandbox.channel import LOG_HEAD_BYTES, LOG_TAIL_BYTES, Log, SocketChannel
from nightlab.sandbox.choose import choose, ready, survey
from nightlab.sandbox.guest import seal
from nightlab.sandbox.process import ProcessSandbox
from nightlab.sandbox.protocol import Cell, Room
from nightlab.sandbox.warm import WarmSandbox
from nightlab.vocabulary import Tier


@given(st.lists(st.binary(max_size=9000), max_size=12))
def test_a_log_keeps_head_and_tail_and_counts_the_rest(parts: list[bytes]) -> None:
    log = Log()
    for part in parts:
        log.add(part)
    whole = b"".join(parts)
    assert log.total_bytes == len(whole)
    assert log.truncated == (len(whole) > LOG_HEAD_BYTES + LOG_TAIL_BYTES)
    if log.truncated:
        assert str(log).startswith(whole[:LOG_HEAD_BYTES].decode(errors="replace")[:-4])
        assert "bytes not kept" in str(log)
    else:
        assert str(log) == whole.decode(errors="replace")


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20))
def test_frames_are_taken_apart_into_stream_and_log(frames: list[tuple[int, bytes]]) -> None:
    here, there = socket.socketpair()
    channel = AttachedChannel(here, lambda: None)
    for kind, content in frames:
        there.sendall(bytes([kind, 0, 0, 0]) + len(content).to_bytes(4, "big") + content)
    there.close()
    wanted = b"".join(content for kind, content in frames if kind == 1)
    got, view = 0, memoryview(bytearray(len(wanted)))
    while got < len(wanted):
        got += channel.receive_into(view[got:])
    channel.drain()
    channel.close()
    assert bytes(view) == wanted
    assert channel.log.total_bytes == sum(len(c) for kind, c in frames if kind == 2)


def test_a_flood_of_log_does_not_hide_an_answer() -> None:
    here, there = socket.socketpair()
    reading, writing = os.pipe()
    channel = SocketChannel(here, reading)
    os.set_blocking(writing, False)
    os.write(writing, b"x" * 60_000)
    there.sendall(b"answer")
    assert channel.wait(1.0)
    assert channel.receive_into(memoryview(bytearray(10))) == 6
    os.close(writing)
    channel.drain()
    assert channel.log.total_bytes == 60_000
    channel.close()
    there.close()


class ListedEngine:
    """An engine that is only its list of things."""

    def __init__(self, things: list[reaper.Owned]) -> None:
        self.things = things

    def owned(self) -> list[reaper.Owned]:
        return list(self.things)

    def discard(self, kind: Literal["container", "volume"], name: str) -> None:
        self.things = [t for t in self.things if (t.kind, t.name) != (kind, name)]


def labelled(owner: str, deadline: float) -> Mapping[str, str]:
    return {reaper.OWNER_LABEL: owner, reaper.DEADLINE_LABEL: str(deadline)}


def test_the_reaper_ends_what_is_overdue_or_orphaned_and_nothing_else() -> None:
    now = time.time()
    dead = reaper.token(2**22 + 7, 1.0)
    elsewhere = "other-host:1:abc"
    reused = reaper.token(os.getpid(), psutil.Process().create_time() - 5000)
    engine = ListedEngine(
        [
            reaper.Owned("volume", "orphan", labelled(dead, now + 999)),
            reaper.Owned("container", "orphan", labelled(dead, now + 999)),
            reaper.Owned("container", "pid reused", labelled(reused, now + 999)),
            reaper.Owned("container", "mine", labelled(reaper.owner(), now + 999)),
            reaper.Owned("container", "overdue", labelled(reaper.owner(), now - 999)),
            reaper.Owned("container", "elsewhere", labelled(elsewhere, now + 999)),
            reaper.Owned("container", "no owner", {}),
        ]
    )
    gone = reaper.sweep(engine, now)
    assert gone == ["orphan", "pid reused", "overdue", "orphan"]
    assert [thing.name for thing in engine.things] == ["mine", "elsewhere", "no owner"]


def test_a_warm_pool_gives_ready_cells_and_leaves_nothing() -> None:
    room = Room(memory_bytes=1 << 30)
    pool = WarmSandbox(ProcessSandbox(), [room])
    first = pool.open(room)
    threads = threading.active_count()
    second = pool.open(room)  # waits for the one that is being opened
    other = pool.open(Room(memory_bytes=2 << 30))
    assert first.alive() and second.alive() and other.alive()  # noqa: PT018
    for cell in (first, second, other):
        cell.close()
    pool.close()
    assert threading.active_count() < threads
    marks = (leftovers.stem("process"),)
    left = [p for p in Path("/tmp").iterdir() if p.name.startswith(marks)]
    assert left == []


def test_a_drained_pool_has_nothing_waiting_and_still_opens_what_is_asked_for() -> None:
    room = Room(memory_bytes=1 << 30)
    pool = WarmSandbox(ProcessSandbox(), [room, room])
    pool.open(room).close()
    pool.drain()
    assert not [one for one in threading.enumerate() if one.name.startswith("nightlab-warm")]
    server = psutil.Process().children()
    assert not [cell for one in server for cell in one.children()]
    cell = pool.open(room)
    assert cell.alive()
    cell.close()
    pool.close()


class FailingSandbox:
    tier = Tier.PROCESS

    def open(self, room: Room) -> Cell:
        raise SandboxError("no")

    def close(self) -> None: ...


def test_a_pool_over_a_broken_tier_hands_its_error_to_whoever_asks() -> None:
    pool = WarmSandbox(FailingSandbox(), [Room()])
    with pytest.raises(SandboxError):
        pool.open(Room())
    pool.close()


def test_an_unknown_tier_is_a_usage_error_and_auto_explains_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="docker"):
        choose("chroot")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/at/all")
    with pytest.raises(MissingError, match="DOCKER_HOST"):
        choose("docker")
    monkeypatch.setenv("PATH", "/nowhere")
    assert [entry.ready for entry in survey()] == [False, False, False, True]
    choice = choose("auto")
    choice.sandbox.close()
    assert choice.sandbox.tier is Tier.PROCESS
    assert len(choice.why) == 4
    assert "bubblewrap is not installed" in " ".join(choice.why)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("unix:///nowhere/at/all", "no Docker engine listens at"),
        ("tcp://127.0.0.1:1", "refused"),
        ("ssh://nobody@nowhere", "paramiko"),
    ],
)
def test_an_engine_that_cannot_be_reached_is_told_in_one_line_with_a_remedy(
    address: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    works, reason = ready(Tier.DOCKER)
    assert not works
    assert why in reason
    assert reason.count("\n") == 0
    assert len(reason) < 200
    assert reason.endswith("start a Docker engine, or point DOCKER_HOST at one")


def test_a_wheelhouse_without_torch_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "numpy-2.0.0-py3-none-any.whl").write_bytes(b"x")
    with pytest.raises(UsageError, match="torch"):
        image.lock(tmp_path)


def test_the_image_holds_our_two_packages_and_nothing_else_of_ours() -> None:
    names = [name for name, _ in image.own_files()]
    assert "nightlab/sandbox/guest/worker.py" in names
    prefixes = ("nightlab/kernels/", "nightlab/sandbox/guest/")
    assert all(name == "Dockerfile" or name.startswith(prefixes) for name in names)
    assert len(image.content_hash()) == 64


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_system_call_filter_is_a_whole_number_of_instructions(machine: str) -> None:
    with_memfd, without = (seal.program_for(machine, memfd=m) for m in (True, False))
    assert with_memfd is not None
    assert without is not None
    assert len(with_memfd) % 8 == 0
    assert len(without) == len(with_memfd) + 16
    assert seal.program_for("riscv64", memfd=True) is None


def test_version_2_groups_are_sought_beside_our_own(tmp_path: Path) -> None:
    (tmp_path / "user.slice" / "app.scope").mkdir(parents=True)
    places = cgroup._candidates(tmp_path, {"": "/user.slice/app.scope"}, "/user.slice/app.scope")
    assert [set(place.parents.values()) for place in places] == [
        {tmp_path / "user.slice"},
        {tmp_path},
    ]
    assert cgroup.find(tmp_path, "") is None


def test_only_names_of_dead_processes_of_this_namespace_are_abandoned() -> None:
    mine = leftovers.stem("bwrap") + "x"
    assert not leftovers.abandoned(mine)
    assert not leftovers.abandoned("nightlab-selftest-x")
    gone = mine.replace(f"-{os.getpid()}-", f"-{2**22 + 9}-")
    assert leftovers.abandoned(gone)
    assert not leftovers.abandoned(gone.replace("-", "-9", 2))
