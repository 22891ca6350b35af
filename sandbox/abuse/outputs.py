"""Programs whose outputs are traps for whoever collects or parses them."""

from nightlab.sandbox.abuse.case import Case, collected, ends
from nightlab.vocabulary import Ending, Run

LEAVE = """
def leave(make):
    # train honestly, and spoil the outputs at the very end
    from nightlab.sandbox.guest import train
    save = train.save_model
    def spoil(model, path):
        save(model, path)
        make(OUT / "weights.safetensors")
    train.save_model = spoil
"""


def _no_host_file(run: Run) -> str:
    return "a host file was read" if b"root:" in collected(run, "weights.safetensors") else ""


def _unrewarded(run: Run) -> str:
    return "" if "val_bpb" in run.log else "the fake was not even printed"


def _trap(name: str, number: str, body: str) -> Case:
    expected = ends(Ending.BAD_OUTPUT, Ending.NO_OUTPUT)
    return Case(
        name=name, number=number, expected=expected, program=LEAVE + body, proof=_no_host_file
    )


CASES = (
    _trap(
        "symlink to a host file",
        "12",
        """
leave(lambda path: (path.unlink(), path.symlink_to("/etc/passwd")))
""",
    ),
    _trap(
        "hard link",
        "12",
        """
leave(lambda path: ((OUT / "curve.jsonl").unlink(), os.link(path, OUT / "curve.jsonl")))
""",
    ),
    _trap(
        "fifo",
        "12",
        """
leave(lambda path: (path.unlink(), os.mkfifo(path)))
""",
    ),
    _trap(
        "socket file",
        "12",
        """
HELD = socket.socket(socket.AF_UNIX)
leave(lambda path: (path.unlink(), os.chdir(OUT), HELD.bind("weights.safetensors")))
""",
    ),
    _trap(
        "folder for a file",
        "12",
        """
leave(lambda path: (path.unlink(), path.mkdir()))
""",
    ),
    _trap(
        "names with control characters",
        "12",
        """
leave(lambda path: (OUT / "\\x1b[31m\\n..").write_text("x"))
""",
    ),
    _trap(
        "output folder becomes a link",
        "12",
        """
def swap(path):
    import shutil
    for file in OUT.iterdir():
        file.unlink()
    try:
        OUT.rmdir()
        OUT.symlink_to("/etc")
    except OSError:
        pass
leave(swap)
""",
    ),
    Case(
        name="file swapped for a link while it is collected",
        number="13",
        expected=ends(Ending.FINISHED, Ending.BAD_OUTPUT, Ending.NO_OUTPUT),
        program=LEAVE
        + """
def swap(path):
    if os.fork() == 0:
        os.setsid()
        whole = path.read_bytes()
        while True:
            path.unlink(missing_ok=True)
            path.symlink_to("/etc/passwd")
            path.unlink(missing_ok=True)
            path.write_bytes(whole)
leave(swap)
""",
        proof=_no_host_file,
    ),
    _trap(
        "larger than agreed",
        "14",
        """
leave(lambda path: path.write_bytes(path.read_bytes() + bytes(5 << 20)))
""",
    ),
    _trap(
        "sparse file",
        "14",
        """
leave(lambda path: os.truncate(path, 7 << 20))
""",
    ),
    _trap(
        "safetensors header of 2 GiB",
        "14",
        """
leave(lambda path: path.write_bytes(struct.pack("<Q", 2 << 30) + b"{}"))
""",
    ),
    _trap(
        "safetensors header of a thousand brackets",
        "14",
        """
deep = b"[" * 100_000
leave(lambda path: path.write_bytes(struct.pack("<Q", len(deep)) + deep))
""",
    ),
    _trap(
        "pickle in place of weights",
        "15",
        """
class Boom:
    def __reduce__(self):
        return (os.system, ("touch /tmp/nightlab-abuse-was-here",))
leave(lambda path: torch.save(Boom(), path))
""",
    ),
    _trap(
        "no outputs at all",
        "24",
        """
leave(lambda path: path.unlink())
""",
    ),
    Case(
        name="fake metrics",
        number="16",
        expected=ends(Ending.FINISHED),
        program="""
print("val_bpb: 0.0001")
print(json.dumps({"val_bpb": 0.0001}))
""",
        proof=_unrewarded,
    ),
    _trap(
        "metrics file beside the weights",
        "16",
        """
leave(lambda path: (OUT / "metrics.json").write_text('{"val_bpb": 0.0001}'))
""",
    ),
    _trap(
        "forged curve that is not a curve",
        "+",
        """
leave(lambda path: (OUT / "curve.jsonl").write_text("[" * 100_000))
""",
    ),
    _trap(
        "forged curve with endless numbers",
        "+",
        """
leave(lambda path: (OUT / "curve.jsonl").write_text('{"loss": NaN, "progress": Infinity}\\n'))
""",
    ),
)
