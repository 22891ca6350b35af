"""Programs that will not die, kill what runs them, or hide from the clock."""

from nightlab.sandbox.abuse.case import Case, collected, ends
from nightlab.vocabulary import Ending, Limits, Run

SHORT = Limits(cpu_seconds=1.5, wall_seconds=4)


def _not_late(run: Run) -> str:
    return "collected what was written late" if b"late" in collected(run, "curve.jsonl") else ""


CASES = (
    Case(
        name="double fork, own session, deaf to SIGTERM",
        number="19",
        expected=ends(Ending.TIMEOUT),
        program="""
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            while True:
                time.sleep(1)
        os._exit(0)
time.sleep(600)
""",
        limits=SHORT,
    ),
    Case(
        name="zombies and orphans",
        number="20",
        expected=ends(Ending.FINISHED),
        program="""
for _ in range(60):
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
""",
    ),
    Case(
        name="daemon writes outputs after the answer",
        number="17",
        expected=ends(Ending.FINISHED, Ending.BAD_OUTPUT),
        program="""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while not (OUT / "weights.safetensors").exists():
            time.sleep(0.001)
        time.sleep(1.0)
        (OUT / "curve.jsonl").write_text('{"late": 1}')
        os._exit(0)
    os._exit(0)
""",
        proof=_not_late,
    ),
    Case(
        name="patched clocks",
        number="17",
        expected=ends(Ending.TIMEOUT),
        program="""
time.process_time = lambda: 0.0
time.monotonic = lambda: 0.0
time.time = lambda: 0.0
""",
        limits=SHORT,
    ),
    Case(
        name="writes results and leaves early",
        number="17",
        expected=ends(Ending.NO_OUTPUT, Ending.CRASHED),
        program="""
from safetensors.torch import save_model
save_model(Model(Recipe()), str(OUT / "weights.safetensors"))
(OUT / "curve.jsonl").write_text('{"loss": 0.0}')
os._exit(0)
""",
    ),
    Case(
        name="kills its runner and everything else it can",
        number="18",
        expected=ends(Ending.FINISHED, Ending.CRASHED),
        isolating=True,
        program="""
for target in (1, os.getppid(), -1):
    try:
        os.kill(target, signal.SIGKILL)
    except OSError:
        pass
""",
    ),
    Case(
        name="kills itself",
        number="18",
        expected=ends(Ending.CRASHED),
        program="os.kill(os.getpid(), signal.SIGKILL)",
    ),
    Case(
        name="exits as if it had been killed from outside",
        number="18",
        expected=ends(Ending.CRASHED),
        program="os._exit(137)",
    ),
    Case(
        name="segmentation fault",
        number="18",
        expected=ends(Ending.CRASHED),
        program="ctypes.string_at(0)",
    ),
    Case(
        name="stops its parent",
        number="+",
        expected=ends(Ending.FINISHED),
        program="""
try:
    os.kill(os.getppid(), signal.SIGSTOP)
except PermissionError:
    pass
""",
    ),
    Case(
        name="stops itself",
        number="+",
        expected=ends(Ending.TIMEOUT),
        program="os.kill(os.getpid(), signal.SIGSTOP)",
        limits=SHORT,
    ),
    Case(
        name="forks in a destructor",
        number="+",
        expected=ends(Ending.FINISHED),
        program="""
class Hydra:
    def __del__(self):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
            os._exit(0)
HEADS = [Hydra() for _ in range(3)]
HEADS.clear()
""",
    ),
    Case(
        name="closes its channel and goes on",
        number="17",
        expected=ends(Ending.CRASHED, Ending.TIMEOUT),
        program="""
os.closerange(3, 1024)
time.sleep(600)
""",
        limits=SHORT,
    ),
    Case(
        name="raises an error that cannot be printed",
        number="7",
        expected=ends(Ending.CRASHED),
        program="""
class Mute(BaseException):
    def __str__(self):
        raise Mute()
raise Mute()
""",
    ),
)
