"""Whether a GPU may serve the next trial: read before one and after it, and quarantined when it
does not come back.

The only module that imports pynvml. GPU memory has no control group: one trial per GPU, and what
a trial leaves on it (memory, a broken context, memory errors) would be the next one's fault.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nightlab.errors import MissingError, NightlabError, SandboxError

SLACK_BYTES = 64 << 20
"""How far an idle GPU's used memory may drift without anybody using it."""
SETTLE_SECONDS = 10.0
"""What the driver gets to take back the memory of a dead container."""
REMEDY = "install the package nvidia-ml-py (`pip install nightlab[gpu]`) beside NVIDIA's driver"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One look at a GPU."""

    used_bytes: int
    memory_errors: int = 0
    """That could not be corrected, since the driver was loaded."""
    faults: tuple[str, ...] = ()
    """What its driver says is wrong with it; empty for a healthy one."""


Read = Callable[[str], Reading]
"""From a GPU's UUID. Raises NightlabError when nobody answers for it."""


def unfit(idle: Reading, now: Reading) -> str:
    """Why a GPU that should be idle may not be used; empty if it may.

    ``idle`` is the first reading of it that was ever made.
    """
    if now.faults:
        return ", ".join(now.faults)
    if fresh := now.memory_errors - idle.memory_errors:
        return f"new memory errors that could not be corrected: {fresh}"
    held = now.used_bytes - idle.used_bytes
    return f"{held >> 20} MiB of its memory did not come back" if held > SLACK_BYTES else ""


class Guard:
    """Admits one trial at a time to each GPU, and none to one that is in quarantine."""

    def __init__(self, read: Read, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._read, self._settle_seconds = read, settle_seconds
        self._lock = threading.Lock()
        self._idle: dict[str, Reading] = {}
        self._taken: set[str] = set()
        self._quarantine: dict[str, str] = {}

    @property
    def quarantine(self) -> dict[str, str]:
        """UUID to reason; a GPU leaves it only with the process, after a person looked at it."""
        with self._lock:
            return dict(self._quarantine)

    def admit(self, uuid: str) -> None:
        """Take a GPU for one trial.

        Raises:
            SandboxError: it is taken, unhealthy or in quarantine.
        """
        with self._lock:
            if uuid in self._taken:
                raise SandboxError(f"GPU {uuid} has a trial on it: one trial per GPU")
            if reason := self._quarantine.get(uuid):
                raise SandboxError(f"GPU {uuid} is in quarantine: {reason}")
            self._taken.add(uuid)
        try:
            now = self._read(uuid)
        except NightlabError:
            self._put_back(uuid)
            raise
        if reason := unfit(self._idle.setdefault(uuid, now), now):
            self._put_back(uuid)
            raise SandboxError(f"GPU {uuid} is not fit for a trial: {reason}")

    def release(self, uuid: str) -> None:
        """Give a GPU back once everything on it is dead; it is quarantined if it is not as it
        was before within the time it has to settle."""
        deadline = time.monotonic() + self._settle_seconds
        reason = self._reason(uuid)
        while reason and time.monotonic() < deadline:
            time.sleep(0.1)
            reason = self._reason(uuid)
        self._put_back(uuid, reason)

    def _reason(self, uuid: str) -> str:
        try:
            now = self._read(uuid)
        except NightlabError as silent:
            return str(silent)
        return unfit(self._idle.get(uuid, now), now)

    def _put_back(self, uuid: str, reason: str = "") -> None:
        with self._lock:
            self._taken.discard(uuid)
            if reason:
                self._quarantine[uuid] = reason


def read(uuid: str) -> Reading:
    """What NVML says of a GPU.

    Raises:
        MissingError: the package or the driver is not installed.
        SandboxError: the driver does not answer for this GPU.
    """
    try:
        import pynvml
    except ImportError:
        raise MissingError(f"GPU trials are watched through NVML: {REMEDY}") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise MissingError(f"NVIDIA's driver does not answer ({error}): {REMEDY}") from None
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        used = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        errors = 0
        faults: tuple[str, ...] = ()
        with contextlib.suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            volatile, worst = pynvml.NVML_VOLATILE_ECC, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
            errors = int(pynvml.nvmlDeviceGetTotalEccErrors(handle, worst, volatile))
        with contextlib.suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            if pynvml.nvmlDeviceGetRemappedRows(handle)[3]:
                faults = ("a row of its memory could not be replaced",)
        return Reading(used_bytes=used, memory_errors=errors, faults=faults)
    except pynvml.NVMLError as error:
        raise SandboxError(f"GPU {uuid} does not answer: {error}") from None
    finally:
        pynvml.nvmlShutdown()
