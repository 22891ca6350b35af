"""Programs that take more than their share: processes, memory, disk, logs, time."""

from nightlab.sandbox.abuse.case import Case, ends
from nightlab.sandbox.channel import LOG_HEAD_BYTES, LOG_TAIL_BYTES
from nightlab.vocabulary import Ending, Limits, Run

SHORT = Limits(cpu_seconds=1.5, wall_seconds=4)
LONGEST_LOG = LOG_HEAD_BYTES + LOG_TAIL_BYTES + 100


def _short_log(run: Run) -> str:
    return "" if 0 < len(run.log) <= LONGEST_LOG else f"a log of {len(run.log)} letters"


def _raw_log(run: Run) -> str:
    if "\x1b[31m" not in run.log or "<script>" not in run.log:
        return "the log was not kept as it came"
    return _short_log(run)


CASES = (
    Case(
        name="fork bomb",
        number="1",
        expected=ends(Ending.TOO_MANY_PROCESSES),
        program="""
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
""",
    ),
    Case(
        name="thread bomb",
        number="1",
        expected=ends(Ending.TOO_MANY_PROCESSES),
        program="""
import threading
while True:
    try:
        threading.Thread(target=time.sleep, args=(60,)).start()
    except RuntimeError:
        time.sleep(0.01)
""",
    ),
    Case(
        name="heap bomb",
        number="2",
        expected=ends(Ending.OUT_OF_MEMORY),
        program="""
hoard = []
while True:
    hoard.append(b"x" * (64 << 20))
""",
    ),
    Case(
        name="heap bomb in a child, parent goes on",
        number="2",
        expected=ends(Ending.OUT_OF_MEMORY),
        isolating=True,
        program="""
if os.fork() == 0:
    hoard = []
    while True:
        hoard.append(b"x" * (64 << 20))
os.wait()
""",
    ),
    Case(
        name="memory in /dev/shm",
        number="3",
        expected=ends(Ending.OUT_OF_MEMORY),
        isolating=True,
        program="""
for number in range(40):
    with open(f"/dev/shm/hoard-{number}", "wb") as file:
        for _ in range(8):
            file.write(bytes(8 << 20))
time.sleep(60)
""",
        memory_bytes=640 << 20,
    ),
    Case(
        name="memory in nameless files",
        number="3",
        expected=ends(Ending.OUT_OF_MEMORY, Ending.CRASHED),
        program="""
for number in range(40):
    fd = os.memfd_create("hoard")
    for _ in range(8):
        os.write(fd, bytes(8 << 20))
time.sleep(60)
""",
        memory_bytes=640 << 20,
    ),
    Case(
        name="disk fill",
        number="4",
        expected=ends(Ending.CRASHED, Ending.BAD_OUTPUT),
        program="""
number = 0
while True:
    number += 1
    with open(OUT / f"fill-{number}", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 16))
""",
    ),
    Case(
        name="disk fill in a nested folder",
        number="4",
        expected=ends(Ending.CRASHED, Ending.BAD_OUTPUT),
        program="""
nested = OUT / "a" / "b"
nested.mkdir(parents=True)
number = 0
while True:
    number += 1
    (nested / f"fill-{number}").write_bytes(bytes(1 << 20))
""",
    ),
    Case(
        name="inode fill",
        number="5",
        expected=ends(Ending.CRASHED, Ending.BAD_OUTPUT, Ending.OUT_OF_MEMORY),
        program="""
number = 0
while True:
    number += 1
    (OUT / f"empty-{number}").touch()
""",
    ),
    Case(
        name="log flood",
        number="6",
        expected=ends(Ending.TIMEOUT),
        program="""
while True:
    print("flood " * 1000)
""",
        limits=SHORT,
        proof=_short_log,
    ),
    Case(
        name="ugly log",
        number="7",
        expected=ends(Ending.FINISHED),
        program="""
print("\\x1b[31m<script>alert(1)</script>\\x1b]0;title\\x07")
sys.stdout.flush()
os.write(1, bytes(range(256)) * 20)
print("x" * (5 << 20))
""",
        proof=_raw_log,
    ),
    Case(
        name="sleeps to the deadline",
        number="24",
        expected=ends(Ending.TIMEOUT),
        program="time.sleep(600)",
        limits=SHORT,
    ),
    Case(
        name="spins to the deadline",
        number="24",
        expected=ends(Ending.TIMEOUT),
        program="""
while True:
    pass
""",
        limits=SHORT,
    ),
    Case(
        name="exits at once with status 0",
        number="24",
        expected=ends(Ending.NO_OUTPUT, Ending.CRASHED),
        program="os._exit(0)",
    ),
    Case(
        name="imports for ever",
        number="+",
        expected=ends(Ending.TIMEOUT),
        program="""
import importlib
while True:
    for name in ("sympy", "networkx", "wave", "turtledemo"):
        for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[loaded]
        try:
            importlib.import_module(name)
        except ImportError:
            pass
""",
        limits=SHORT,
    ),
    Case(
        name="short-lived children hide their CPU time",
        number="17",
        expected=ends(Ending.TIMEOUT),
        program="""
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        until = time.monotonic() + 0.03
        while time.monotonic() < until:
            pass
        os._exit(0)
    time.sleep(0.03)
""",
        limits=Limits(cpu_seconds=1.5, wall_seconds=6),
    ),
)
