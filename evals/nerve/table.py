"""The compact table of spectra that a proposer reads, always beside the loss.

Thirds by metrics, each with its value, its change since the last report, and its z-score against
reference runs (the incumbent) at the same step, with the rules for reading it as text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightlab.errors import UsageError
from nightlab.evals.nerve.thirds import THIRDS, Metric, Summary, Third

SHOWN: tuple[tuple[Metric, str], ...] = (
    ("pr_pre", "PR_pre/D"),
    ("pr_post", "PR_post/D"),
    ("log_gain", "log gain"),
    ("eee_post", "EEE_post"),
    ("js", "JS"),
)
INERT_EEE, INERT_JS = 0.95, 0.005
"""Early layers beyond both: the activation changes nothing (norm-free GELU, arXiv 2603.06922)."""


@dataclass(frozen=True)
class Reference:
    """The incumbent's spectra at one step, over its repeated runs."""

    step: int
    size: tuple[int, tuple[int, ...]]
    mean: Mapping[tuple[Third, Metric], float]
    deviation: Mapping[tuple[Third, Metric], float]
    """Standard deviation over runs; empty for fewer than two."""
    runs: int


def reference(runs: Sequence[Sequence[Summary]], step: int) -> Reference:
    """The reference at a step from several runs of one program.

    UsageError where no run measured this very step, or where their sizes differ: neighbouring
    steps are not matched steps.
    """
    found = [s for run in runs for s in run if s.step == step]
    if not found:
        raise UsageError(f"no reference run has spectra at step {step}")
    if len({s.size for s in found}) > 1:
        raise UsageError("reference runs have spectra of different (N, D)")
    cells = set.intersection(*(set(s.values) for s in found))
    columns = {cell: [s.values[cell] for s in found] for cell in cells}
    mean = {cell: sum(values) / len(values) for cell, values in columns.items()}
    deviation = {}
    if len(found) > 1:
        for cell, values in columns.items():
            square = sum((v - mean[cell]) ** 2 for v in values) / (len(values) - 1)
            deviation[cell] = math.sqrt(square)
    return Reference(step, found[0].size, mean, deviation, len(found))


def z_scores(now: Summary, against: Reference) -> dict[tuple[Third, Metric], float]:
    """(value - mean) / deviation per cell, where the deviation is known and not zero.

    UsageError where step, N or D differ.
    """
    if now.step != against.step:
        raise UsageError(f"spectra of step {now.step} against a reference of step {against.step}")
    if now.size != against.size:
        raise UsageError(f"spectra of (N, D) = {now.size} against a reference of {against.size}")
    return {
        cell: (value - against.mean[cell]) / against.deviation[cell]
        for cell, value in now.values.items()
        if against.deviation.get(cell, 0.0) > 0
    }


def compact_table(
    now: Summary,
    *,
    loss: float,
    previous: Summary | None = None,
    against: Reference | None = None,
    beside: Mapping[str, float] | None = None,
) -> str:
    """The table as plain text of about a dozen lines.

    ``beside`` holds further numbers of the same step to show first, such as gradient norm,
    update/weight ratio or share of dead units. A reference of other size or step is named and left
    out, never silently used.
    """
    scores, note = _scores(now, against)
    before = previous if previous is not None and previous.size == now.size else None
    first = {"loss": loss, **(beside or {})}
    width = sorted(set(now.widths))
    lines = [
        f"step {now.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in first.items()),
        f"spectra (N={now.tokens}, D={'/'.join(map(str, width))}; {note}): value [change] (z)",
        "third  " + "".join(f"{title:>24}" for _, title in SHOWN),
    ]
    for where in THIRDS:
        cells = [_cell(now, before, scores, (where, metric)) for metric, _ in SHOWN]
        if any(cell != "-" for cell in cells):
            lines.append(f"{where:<7}" + "".join(f"{cell:>24}" for cell in cells))
    lines += [f"pattern: {each}" for each in patterns(now, before)]
    lines.append(
        "Correlational and noisy; a large gain is not good in itself, and any spectrum can be "
        "raised without lowering the loss. Judge by the loss."
    )
    return "\n".join(lines)


def patterns(now: Summary, previous: Summary | None = None) -> tuple[str, ...]:
    """The reference's rules that apply, as sentences with their remedy."""
    found = []
    eee, js = now.values.get(("early", "eee_post")), now.values.get(("early", "js"))
    if eee is not None and js is not None and eee > INERT_EEE and js < INERT_JS:
        found.append(
            f"early layers are inert (EEE_post {eee:.3f} > {INERT_EEE}, JS {js:.4f} < {INERT_JS}): "
            "the activation changes little; try ReLU or norms before the feed-forward"
        )
    if previous is not None and _fell(now, previous, "pr_pre") and _fell(previous, now, "log_gain"):
        found.append(
            "PR_pre falls while the gain rises: the activation repairs a collapsing input; "
            "try Muon, a lower learning rate, QK-norm or pre-norm"
        )
    return tuple(found)


def wasted_width(narrow: Summary, wide: Summary) -> bool:
    """Whether a wider program uses a smaller share of its width after the activation.

    The one comparison across D that means something: shares at equal N and step.
    """
    if narrow.tokens != wide.tokens or narrow.step != wide.step:
        raise UsageError("wasted width needs equal tokens and equal steps")
    if sum(narrow.widths) >= sum(wide.widths):
        raise UsageError("the second program is not wider than the first")
    cells = [(where, "pr_post") for where in THIRDS]
    pairs = [(narrow.values.get(c), wide.values.get(c)) for c in cells]  # type: ignore[arg-type]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(known) and all(b < a for a, b in known)


def _fell(low: Summary, high: Summary, metric: Metric) -> bool:
    """Whether ``metric`` is lower in ``low`` than in ``high`` in every third that both have."""
    cells = [(where, metric) for where in THIRDS]
    pairs = [(low.values[c], high.values[c]) for c in cells if c in low.values and c in high.values]
    return bool(pairs) and all(a < b for a, b in pairs)


def _scores(
    now: Summary, against: Reference | None
) -> tuple[dict[tuple[Third, Metric], float], str]:
    if against is None:
        return {}, "no reference"
    try:
        scores = z_scores(now, against)
    except UsageError as reason:
        return {}, f"no z-score: {reason}"
    if not scores:
        return {}, f"no z-score: {against.runs} reference run"
    return scores, f"z against {against.runs} reference runs at this step"


def _cell(
    now: Summary,
    previous: Summary | None,
    scores: Mapping[tuple[Third, Metric], float],
    cell: tuple[Third, Metric],
) -> str:
    value = now.values.get(cell)
    if value is None:
        return "-"
    text = f"{value:.3f}"
    if previous is not None and cell in previous.values:
        text += f" [{value - previous.values[cell]:+.3f}]"
    if cell in scores:
        text += f" ({max(-99.9, min(99.9, scores[cell])):+.1f})"
    return text
