"""What changed between two programs."""

from difflib import unified_diff

from nightlab.vocabulary import Program


def diff(before: Program, after: Program, old: str, new: str, *, context: int = 3) -> str:
    """A unified diff over all files, labelled by where each side comes from; empty when equal."""
    lines: list[str] = []
    for name in sorted({*before.files, *after.files}):
        changed = unified_diff(
            before.files.get(name, "").splitlines(),
            after.files.get(name, "").splitlines(),
            fromfile=f"{old}/{name}",
            tofile=f"{new}/{name}",
            n=context,
            lineterm="",
        )
        lines += changed
    return "\n".join(lines) + "\n" if lines else ""


def sizes(patch: str) -> tuple[int, int]:
    """Lines added and removed by a unified diff."""
    body = [line for line in patch.splitlines() if not line.startswith(("+++", "---"))]
    added = sum(line.startswith("+") for line in body)
    return added, sum(line.startswith("-") for line in body)
