"""Programs that train honestly and attack the score through the oracle or its channel."""

from nightlab.sandbox.abuse.case import ACCEPTED, REJECTED, Case, ends
from nightlab.vocabulary import Ending, Limits

SHORT = Limits(cpu_seconds=3, wall_seconds=4)

CHANNEL = """
class Raw:
    # the worker's own channel, found from inside
    def __init__(self):
        import gc
        self.out = next(o for o in gc.get_objects() if type(o).__name__ == "Channel").outgoing
    def write(self, data):
        self.out.write(data)
        self.out.flush()
    def message(self, header):
        text = json.dumps(header).encode()
        self.write(struct.pack(">I", len(text)) + text)
"""

EVIL = """
class Evil(Model):
    def forward(self, tokens_BT):
        logits = super().forward(tokens_BT)
        if self.training:
            return logits
        return self.lie(tokens_BT, logits)
"""


def _rejected(name: str, number: str, body: str) -> Case:
    program = EVIL + body + "\nModel = Evil\n"
    return Case(name=name, number=number, expected=ends(REJECTED), ask="score", program=program)


def _broken(name: str, number: str, body: str, *endings: Ending) -> Case:
    return Case(
        name=name,
        number=number,
        expected=ends(*endings),
        ask="score",
        program=CHANNEL + EVIL + body + "\nModel = Evil\n",
        limits=SHORT,
    )


CASES = (
    Case(
        name="honest program",
        number="25",
        expected=ends(ACCEPTED),
        ask="score",
        program="",
    ),
    Case(
        name="un-normalised logits",
        number="25",
        expected=ends(ACCEPTED),
        ask="score",
        program=EVIL
        + """
    def lie(self, tokens, logits):
        return logits + 50.0
Model = Evil
""",
    ),
    _rejected(
        "looks at the next token",
        "25",
        """
    def lie(self, tokens, logits):
        ahead = torch.roll(tokens, -1, 1)
        return logits + 20 * torch.nn.functional.one_hot(ahead, VOCABULARY)
""",
    ),
    _rejected(
        "keeps tokens between calls",
        "25",
        """
    store = {}
    def lie(self, tokens, logits):
        for b, row in enumerate(tokens.tolist()):
            key = tuple(row[:4])
            for t in range(len(row) - 1):
                if key in self.store:
                    logits[b, t, self.store[key][t + 1]] += 20
            self.store[key] = row
        return logits
""",
    ),
    _rejected(
        "answers depend on the batch",
        "25",
        """
    def lie(self, tokens, logits):
        return logits + torch.randn(VOCABULARY) * tokens.float().mean()
""",
    ),
    _rejected(
        "detects that it is scored",
        "25",
        """
    calls = 0
    def lie(self, tokens, logits):
        Evil.calls += 1
        return logits * (1.0 if Evil.calls % 2 else 0.1)
""",
    ),
    _rejected(
        "not a number",
        "+",
        """
    def lie(self, tokens, logits):
        return torch.full_like(logits, float("nan"))
""",
    ),
    _rejected(
        "infinite",
        "+",
        """
    def lie(self, tokens, logits):
        logits[..., 0] = float("inf")
        return logits
""",
    ),
    _rejected(
        "lying shape",
        "+",
        """
    def lie(self, tokens, logits):
        return logits[:, :1]
""",
    ),
    _rejected(
        "patched torch functions",
        "+",
        """
    def lie(self, tokens, logits):
        torch.Tensor.float = lambda t: t * (1 + torch.rand(()))
        return logits
""",
    ),
    _broken(
        "slow answers, a byte at a time",
        "+",
        """
    def lie(self, tokens, logits):
        raw = Raw()
        raw.write(struct.pack(">I", 1 << 20))
        while True:
            raw.write(b" ")
            time.sleep(0.005)
""",
        Ending.TIMEOUT,
    ),
    _broken(
        "reports points for ever",
        "+",
        """
    def lie(self, tokens, logits):
        raw = Raw()
        while True:
            raw.message({"point": {"loss": 0.0}})
""",
        Ending.TIMEOUT,
        Ending.BAD_OUTPUT,
    ),
    _broken(
        "announces a header of 4 GiB",
        "14",
        """
    def lie(self, tokens, logits):
        Raw().write(b"\\xff" * 4)
        time.sleep(600)
""",
        Ending.BAD_OUTPUT,
    ),
    _broken(
        "announces arrays of a terabyte",
        "14",
        """
    def lie(self, tokens, logits):
        Raw().message({"ok": True, "arrays": [{"dtype": "float32", "shape": [1 << 20, 1 << 20]}]})
        time.sleep(600)
""",
        Ending.BAD_OUTPUT,
    ),
    _broken(
        "speaks before it is asked",
        "14",
        """
    def lie(self, tokens, logits):
        raw = Raw()
        raw.write(b"GET / HTTP/1.1\\r\\n\\r\\n" * 1000)
        time.sleep(600)
""",
        Ending.BAD_OUTPUT,
    ),
)
