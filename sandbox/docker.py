"""The ``docker`` and ``docker+runsc`` tiers: a hardened container for every cell.

The only module that imports docker. Images, environment, command and mounts are ours, never a
program's. Containers talk over an attached socket; outputs lie in a capped volume in memory that
a read-only holder keeps until they are collected from it, after everything that could write is
dead.
"""

import contextlib
import functools
import itertools
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit
from requests.exceptions import RequestException

from nightlab.errors import MissingError, SandboxError
from nightlab.sandbox import gpu, image, leftovers, reaper
from nightlab.sandbox.attached import AttachedChannel
from nightlab.sandbox.cell import LiveCell
from nightlab.sandbox.container import Container
from nightlab.sandbox.guest.seal import VARIABLE, Seal
from nightlab.sandbox.process import START_SECONDS, TEMPORARY_BYTES, thread_variables
from nightlab.sandbox.protocol import Room, check_readable
from nightlab.vocabulary import Tier

NOBODY = 65534
TIMEOUT_SECONDS = 60
SHARED_MEMORY_BYTES = 1 << 30
CACHE_BYTES = 512 << 20
HOLDER_BYTES = 32 << 20
MAX_FILES = 1024
WORKER = ["python3", "-m", "nightlab.sandbox.guest.init"]
RUNSC = "runsc"
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
REMEDY = "start a Docker engine, or point DOCKER_HOST at one"


@contextlib.contextmanager
def engine_boundary(doing: str) -> Iterator[None]:
    """Whatever the engine or the way to it throws is the environment's fault."""
    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        raise SandboxError(f"{doing}: {str(error)[:500]}") from error


def _first_cause(error: BaseException) -> BaseException:
    """What the system said, where the libraries on the way wrapped it in sentences of theirs."""
    found: BaseException = error
    cause = error.__cause__ or error.__context__
    while cause is not None:
        found = cause if isinstance(cause, OSError) else found
        cause = cause.__cause__ or cause.__context__
    return found


def _close_all(clients: list[docker.DockerClient]) -> None:
    while clients:
        clients.pop().close()


class Engine:
    """A connection to one Docker engine, usable from any thread."""

    def __init__(self) -> None:
        """Raises MissingError when no engine answers."""
        self._local = threading.local()
        self._clients: list[docker.DockerClient] = []
        weakref.finalize(self, _close_all, self._clients)
        address = os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS)
        if address.startswith("unix://") and not Path(address.removeprefix("unix://")).exists():
            raise MissingError(f"no Docker engine listens at {address}: {REMEDY}")
        try:
            with contextlib.closing(docker.from_env(timeout=10)) as client:
                self.version = client.version()["ApiVersion"]
        except (DockerException, RequestException, OSError) as error:
            why = str(_first_cause(error))[:200]
            raise MissingError(f"no Docker engine answers at {address} ({why}): {REMEDY}") from None

    @property
    def client(self) -> docker.DockerClient:
        """This thread's own connection."""
        if not hasattr(self._local, "client"):
            self._local.client = self._connect()
            self._clients.append(self._local.client)
        client: docker.DockerClient = self._local.client
        return client

    def close(self) -> None:
        """Let go of every thread's connection; a later use opens new ones."""
        self._local = threading.local()
        _close_all(self._clients)

    def _connect(self) -> docker.DockerClient:
        return docker.from_env(version=self.version, timeout=TIMEOUT_SECONDS)

    def attach(self, container: str) -> AttachedChannel:
        """Streams of a container that is not started yet, over a connection of their own."""
        client = self._connect()
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        raw = client.api.attach_socket(container, params=streams)

        def release() -> None:
            with contextlib.suppress(ValueError, OSError):  # closed from the other side
                raw._response.close()
            raw.close()
            client.close()

        return AttachedChannel(getattr(raw, "_sock", raw), release)

    def runtimes(self) -> set[str]:
        return set(self.client.info().get("Runtimes", {}))

    def trainer(self, *, cuda: bool = False) -> str:
        """The id of the newest image of exactly our present code.

        Raises:
            MissingError: there is none.
        """
        labels = [f"{image.CONTENT_LABEL}={image.content_hash()}"]
        if cuda:
            labels.append(f"{image.VARIANT_LABEL}=cuda")
        found = self.client.images.list(filters={"label": labels})
        if not found:
            flag = " --cuda" if cuda else ""
            raise MissingError(
                f"the trainer image is missing or older than the code: "
                f"run `nightlab sandbox build{flag}`"
            )
        newest = max(found, key=lambda entry: str(entry.attrs.get("Created", "")))
        return str(newest.id)

    def import_base(self, archive: Path, name: str) -> None:
        """Make a base image of a root file system; does nothing if the name is taken."""
        with engine_boundary(f"importing {archive}"):
            with contextlib.suppress(NotFound):
                self.client.images.get(name)
                return
            repository, _, tag = name.partition(":")
            with archive.open("rb") as file:
                chunks = iter(lambda: file.read(1 << 20), b"")
                self.client.api.import_image_from_stream(chunks, repository=repository, tag=tag)

    def build(self, recipe: image.Recipe, hear: Any = None) -> str:
        """Build the trainer image; pulls only a base that is not there. Returns its id."""
        with engine_boundary(f"getting the base image {recipe.base}"):
            try:
                base = self.client.images.get(recipe.base)
            except NotFound:
                base = self.client.images.pull(recipe.base)
        digests = base.attrs.get("RepoDigests") or [base.id]
        with tempfile.TemporaryFile() as context:
            labels = image.write_context(recipe, context)
            context.seek(0)
            labels |= {reaper.APP_LABEL: reaper.APP, image.BASE_LABEL: str(digests[0])}
            return self._build(context, str(base.id), labels, hear)

    def _build(self, context: IO[bytes], base: str, labels: dict[str, str], hear: Any) -> str:
        tag = f"nightlab-trainer:{labels[image.CONTENT_LABEL][:12]}"
        stream = self.client.api.build(
            fileobj=context, custom_context=True, encoding=None, tag=tag, labels=labels,
            buildargs={"BASE": base}, network_mode="none", rm=True, forcerm=True, pull=False,
            decode=True, timeout=3600,
        )  # fmt: skip
        with engine_boundary("building the trainer image"):
            for line in stream:
                if "error" in line:
                    raise SandboxError(f"the trainer image does not build: {line['error']}")
                if hear and "stream" in line:
                    hear(str(line["stream"]).rstrip())
            return str(self.client.images.get(tag).id)

    def owned(self) -> list[reaper.Owned]:
        """Every container and volume that carries our label."""
        ours = {"label": f"{reaper.APP_LABEL}={reaper.APP}"}
        found = []
        for entry in self.client.api.containers(all=True, filters=ours):
            name = entry["Names"][0].lstrip("/")
            found.append(reaper.Owned("container", name, entry["Labels"]))
        for entry in self.client.api.volumes(filters=ours)["Volumes"] or []:
            found.append(reaper.Owned("volume", entry["Name"], entry["Labels"] or {}))
        return found

    def inspect(self, name: str) -> Mapping[str, Any]:
        with engine_boundary("asking for a container's state"):
            entry: Mapping[str, Any] = self.client.api.inspect_container(name)
            return entry

    def stats(self, name: str) -> Mapping[str, Any]:
        with engine_boundary("reading a container's meters"):
            stats: Mapping[str, Any] = self.client.api.stats(name, stream=False, one_shot=True)
            return stats

    def kill(self, name: str) -> None:
        """Kill a container and wait until it is dead."""
        with engine_boundary("killing a container"):
            with contextlib.suppress(APIError):  # a conflict: it ended just now
                self.client.api.kill(name)
            self.client.api.wait(name, timeout=TIMEOUT_SECONDS)

    def archive(self, name: str, path: str) -> Iterator[bytes]:
        """A folder of a container as an uncompressed tar, in chunks."""
        with engine_boundary("fetching a container's outputs"):
            yield from self.client.api.get_archive(name, path)[0]

    def discard(self, kind: Literal["container", "volume"], name: str) -> None:
        """Kill and remove one thing; fine if it is gone already."""
        with engine_boundary(f"removing a {kind}"), contextlib.suppress(NotFound):
            if kind == "container":
                self.client.api.remove_container(name, force=True, v=False)
            else:
                self.client.api.remove_volume(name, force=True)


class DockerSandbox:
    """Starts one container for every cell, and sweeps up after supervisors that died."""

    def __init__(self, tier: Tier = Tier.DOCKER) -> None:
        """Raises MissingError when there is no engine or no image."""
        self.tier = tier
        self._engine = Engine()
        self._image = {False: self._engine.trainer()}
        self._owner = reaper.owner()
        self._bury = ThreadPoolExecutor(2, "nightlab-bury")
        self._reaper = reaper.Reaper(self._engine)
        self._gpus = gpu.Guard(gpu.read)
        leftovers.sweep_folders(Path(tempfile.gettempdir()))

    def open(self, room: Room) -> LiveCell:
        started = time.monotonic()
        check_readable(room.data)
        cuda = room.gpu is not None
        if cuda not in self._image:
            self._image[cuda] = self._engine.trainer(cuda=cuda)
        name = f"nightlab-{self._owner.rpartition(':')[2]}-{os.getpid()}-{next(_numbers)}"
        body = Container(self._engine, name, self._image[cuda], outputs=room.output_bytes > 0)
        if room.gpu is not None:
            self._gpus.admit(room.gpu)
            body.gone = functools.partial(self._gpus.release, room.gpu)
        try:
            with engine_boundary("starting a container"):
                channel = self._start(room, body)
        except SandboxError:
            body.remove()
            raise
        body.bury = None if cuda else self._bury  # a GPU must be free again when a cell is closed
        paths = ("/data" if room.data else "", "/out")
        cell = LiveCell(self.tier, room, channel, body, paths)
        cell.greet(started, START_SECONDS)
        try:
            body.find_meters()
        except SandboxError:
            cell.close()
            raise
        return cell

    def close(self) -> None:
        self._reaper.close()
        self._bury.shutdown()
        self._engine.close()

    def _start(self, room: Room, body: Container) -> AttachedChannel:
        api = self._engine.client
        labels = reaper.labels(self._owner, room.labels or {})
        mounts = []
        if room.data is not None:
            mounts.append(Mount("/data", str(room.data.resolve()), type="bind", read_only=True))
        if room.output_bytes:
            api.volumes.create(
                name=body.name, driver="local", labels=labels,
                driver_opts={"type": "tmpfs", "device": "tmpfs", "o": volume_options(room)},
            )  # fmt: skip
            mounts.append(Mount("/out", body.name, type="volume", no_copy=True))
        trial = api.containers.create(**self._profile(room, body, labels), mounts=mounts)
        channel = self._engine.attach(str(trial.id))
        try:
            trial.start()
            if room.output_bytes:
                holder = [Mount("/out", body.name, type="volume", read_only=True, no_copy=True)]
                api.containers.create(**holder_profile(body, labels), mounts=holder).start()
        except (DockerException, RequestException, OSError):
            channel.close()
            raise
        return channel

    def _profile(self, room: Room, body: Container, labels: dict[str, str]) -> dict[str, Any]:
        """The whole hardened profile of a trial; nothing of it is a program's choice."""
        file_bytes = max(room.output_bytes, TEMPORARY_BYTES)
        nobody = f"uid={NOBODY},gid={NOBODY}"
        profile = {
            **bare_profile(body.name, body.image, labels),
            "command": WORKER,
            "stdin_open": True,
            "pids_limit": room.processes,
            "mem_limit": room.memory_bytes,
            "memswap_limit": room.memory_bytes,
            "nano_cpus": room.threads * 1_000_000_000,
            "shm_size": SHARED_MEMORY_BYTES,
            "ulimits": [
                Ulimit(name="nofile", soft=1024, hard=1024),
                Ulimit(name="core", soft=0, hard=0),
                Ulimit(name="fsize", soft=file_bytes, hard=file_bytes),
            ],
            "tmpfs": {
                "/tmp": f"rw,noexec,nosuid,nodev,size={TEMPORARY_BYTES},mode=1777,{nobody}",
                "/triton": f"rw,exec,nosuid,nodev,size={CACHE_BYTES},mode=1777,{nobody}",
            },
            "environment": {
                **thread_variables(room.threads),
                VARIABLE: Seal(file_bytes=file_bytes).dumps(),
            },
        }
        if self.tier is Tier.DOCKER_RUNSC:
            profile["runtime"] = RUNSC
        if room.gpu is not None:
            capabilities = [["gpu", "compute", "utility"]]
            profile["device_requests"] = [
                DeviceRequest(device_ids=[room.gpu], capabilities=capabilities)
            ]
        return profile


_numbers = itertools.count()


def bare_profile(name: str, image_id: str, labels: dict[str, str]) -> dict[str, Any]:
    """What trials and holders share: no network, no root, no capabilities, no writable image."""
    return {
        "image": image_id,
        "name": name,
        "hostname": "trial",
        "labels": labels,
        "network_mode": "none",
        "read_only": True,
        "user": f"{NOBODY}:{NOBODY}",
        "ipc_mode": "private",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "stop_signal": "SIGKILL",
        "log_config": LogConfig(type="none"),
    }


def holder_profile(body: Container, labels: dict[str, str]) -> dict[str, Any]:
    """Sleeps, so that the volume stays mounted for as long as it is wanted."""
    return {
        **bare_profile(f"{body.name}-holder", body.image, labels),
        "command": ["sleep", "infinity"],
        "pids_limit": 4,
        "mem_limit": HOLDER_BYTES,
        "memswap_limit": HOLDER_BYTES,
    }


def volume_options(room: Room) -> str:
    """Mount options of the outputs' volume: capped in bytes and in files."""
    return (
        f"size={room.output_bytes},nr_inodes={MAX_FILES},uid={NOBODY},gid={NOBODY},mode=0700,"
        "nosuid,nodev,noexec"
    )


def probe(tier: Tier) -> str:
    """Whether an engine, an image and the runtime are there; says what the tier offers.

    Raises:
        MissingError: one of them is not; says which and how to get it.
    """
    with contextlib.closing(Engine()) as engine:
        return _probe(engine, tier)


def _probe(engine: Engine, tier: Tier) -> str:
    image_id = engine.trainer()
    if tier is Tier.DOCKER_RUNSC:
        if RUNSC not in engine.runtimes():
            raise MissingError("the engine has no runtime named runsc; install gVisor")
        _try_runsc(engine, image_id)
        return "hardened containers on gVisor's own kernel"
    return "hardened containers: no network, no root, no capabilities, capped memory and files"


def _try_runsc(engine: Engine, image_id: str) -> None:
    labels = reaper.labels(reaper.owner(), {})
    profile = bare_profile(f"nightlab-probe-{os.getpid()}", image_id, labels)
    try:
        engine.client.containers.run(
            **profile, command=["python3", "-c", "pass"], runtime=RUNSC, remove=True
        )
    except (DockerException, RequestException) as error:
        raise MissingError(f"gVisor does not run here: {str(error)[:200]}") from error
