"""What a worker gives up before it meets foreign code: defence in depth, the same in every tier.

Resource limits, the root user where it has one, new privileges, and the system calls no trainer
needs: mount, ptrace, namespaces, bpf, keys, io_uring, and every socket that is not AF_UNIX (a
network namespace does not contain AF_VSOCK or AF_ALG). All of it is inherited by every child.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

VARIABLE = "NIGHTLAB_SEAL"

# Numbers on x86_64 and on aarch64; -1 where there is no such call.
DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116),
    "sethostname": (170, 161), "setdomainname": (171, 162), "acct": (163, 89),
    "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "iopl": (172, -1), "ioperm": (173, -1),
    "modify_ldt": (154, -1), "lookup_dcookie": (212, 18), "kcmp": (312, 272),
    "fanotify_init": (300, 262), "vhangup": (153, 58), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "quotactl_fd": (443, 443), "memfd_secret": (447, 447),
}  # fmt: skip
MEMFD_CREATE = (319, 279)
CLONE, CLONE3, SOCKET, SOCKETPAIR, IOCTL = (56, 220), (435, 435), (41, 198), (53, 199), (16, 29)
NEW_NAMESPACES = 0x7E020000
AF_UNIX, TIOCSTI = 1, 0x5412
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCHITECTURE, ARGUMENT_0, ARGUMENT_1 = 0, 4, 16, 24
SECCOMP_MODE_FILTER = 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Seal:
    """What to give up; travels as JSON in one environment variable."""

    file_bytes: int
    """Largest file it may write."""
    processes: int | None = None
    """Processes and threads of this user; None where a cgroup counts them, or other users do."""
    user: int | None = None
    """User and group to become; None to stay who it is."""
    memfd: bool = True
    """Whether memory-backed files may exist: only where a cgroup counts them."""

    def dumps(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_environment(cls) -> "Seal | None":
        text = os.environ.pop(VARIABLE, None)
        return cls(**json.loads(text)) if text else None


def prctl(option: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    """The system call; 0 when it worked. Does nothing where there is no Linux."""
    if not sys.platform.startswith("linux"):
        return -1
    padded = [a if isinstance(a, ctypes.Array) else ctypes.c_ulong(a) for a in arguments]
    while len(padded) < 4:
        padded.append(ctypes.c_ulong(0))
    result: int = ctypes.CDLL(None, use_errno=True).prctl(option, *padded)
    return result


def apply(seal: Seal) -> bool:
    """Give it all up; returns whether the system call filter is in place."""
    _limit(seal)
    if seal.user is not None and os.getuid() == 0:
        _become(seal.user)
    if prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
        return False
    return _filter(seal)


def _limit(seal: Seal) -> None:
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 1024}
    limits[resource.RLIMIT_FSIZE] = seal.file_bytes
    if seal.processes is not None:
        limits[resource.RLIMIT_NPROC] = seal.processes
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def _become(user: int) -> None:
    for capability in range(64):
        with contextlib.suppress(OSError):
            prctl(PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _filter(seal: Seal) -> bool:
    program = program_for(platform.machine(), memfd=seal.memfd)
    if program is None:
        return False
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count, padding, and a pointer
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header)) == 0


def program_for(machine: str, *, memfd: bool) -> bytes | None:
    """The filter as classic BPF, 8 bytes an instruction; None on a machine we have no table for."""
    if machine not in MACHINES:
        return None
    column, audit = MACHINES[machine]
    lines = [_op(LOAD, ARCHITECTURE), _op(EQUAL, audit, 1, 0), _op(RETURN, KILL)]
    lines.append(_op(LOAD, NUMBER))
    if machine == "x86_64":  # the x32 calls have other numbers
        lines += [_op(AT_LEAST, 0x40000000, 0, 1), _op(RETURN, ERRNO | ENOSYS)]
    for numbers in DENIED.values():
        if numbers[column] >= 0:
            lines += _refuse(numbers[column], EPERM)
    if not memfd:
        lines += _refuse(MEMFD_CREATE[column], EPERM)
    lines += _refuse(CLONE3[column], ENOSYS)  # its flags lie in memory; the C library falls back
    lines += _argument(CLONE[column], ARGUMENT_0, ANY_BIT, NEW_NAMESPACES, EPERM)
    lines += _argument(IOCTL[column], ARGUMENT_1, EQUAL, TIOCSTI, EPERM)
    for call in (SOCKET, SOCKETPAIR):
        lines += _argument(call[column], ARGUMENT_0, EQUAL, AF_UNIX, EAFNOSUPPORT, unless=True)
    lines.append(_op(RETURN, ALLOW))
    return b"".join(lines)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _refuse(number: int, error: int) -> Iterator[bytes]:
    yield _op(EQUAL, number, 0, 1)
    yield _op(RETURN, ERRNO | error)


def _argument(
    number: int, argument: int, test: int, value: int, error: int, *, unless: bool = False
) -> Iterator[bytes]:
    """Refuse one call when the low word of an argument passes the test (or unless it does)."""
    yield _op(EQUAL, number, 0, 4)
    yield _op(LOAD, argument)
    yield _op(test, value, 1, 0) if unless else _op(test, value, 0, 1)
    yield _op(RETURN, ERRNO | error)
    yield _op(LOAD, NUMBER)
