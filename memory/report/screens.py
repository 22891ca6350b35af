"""Tables and panels for a terminal. Foreign text is shown as text, never as markup.

A screen that is not ``wide`` keeps to what fits 80 columns.
"""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nightlab.memory.records import ArchiveEntry, Call, Decision, Event, Experiment, Page, Trial
from nightlab.memory.report import aborts, words
from nightlab.memory.report.spectra import FAR, SHOWN, Shown, Told
from nightlab.memory.report.summary import Summary
from nightlab.vocabulary import Verdict

STYLES = {
    Verdict.CONFIRMED: "bold green",
    Verdict.SCREENED: "cyan",
    Verdict.DISCARDED: "dim",
    Verdict.INVALID: "yellow",
    Verdict.FAILED: "red",
    Verdict.REJECTED: "bold red",
}


def text(value: object, style: str = "") -> Text:
    """Foreign text, safe to print."""
    return Text(words.clean(value), style=style)


def verdict(value: Verdict | None) -> Text:
    """A verdict in its colour."""
    return Text(value or "under way", style=STYLES.get(value, "") if value else "italic")


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def columns(*names: str, right: Sequence[str] = (), fold: Sequence[str] = ()) -> Table:
    """An empty table; ``right``: numbers, ``fold``: the columns that give way first."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in names:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in fold,
            overflow="ellipsis" if name not in fold else "fold",
        )
    return table


def campaigns(summaries: Sequence[Summary], *, wide: bool = True) -> RenderableType:
    """One row per campaign, the newest last."""
    names = ["id", "goal", "status", "tried", "kept", "gain"]
    names += ["baseline", "best", "time"] if wide else []
    numbers = ("tried", "kept", "gain", "baseline", "best", "time")
    table = columns(*names, right=numbers, fold=("goal",))
    for summary in summaries:
        best = summary.best
        level = best.level.value if best and best.level else None
        row: list[RenderableType] = [
            summary.campaign.id,
            text(summary.campaign.goal),
            Text(summary.campaign.status),
            str(sum(summary.counts.values())),
            str(summary.counts[Verdict.CONFIRMED]),
            f"{best.gain_percent.value:.1f} %" if best and best.gain_percent else "-",
            words.number(summary.baseline.value if summary.baseline else None),
            words.number(level),
            words.duration(summary.spent.wall_seconds),
        ]
        table.add_row(*row[: len(names)])
    return table


def campaign(summary: Summary, page: Page, *, offset: int = 0, wide: bool = True) -> RenderableType:
    """A campaign's summary over one page of its experiments."""
    names = ["id", "what", "verdict", "gain", "value", *(["from", "by", "why"] if wide else [])]
    shown = columns(*names, right=("gain", "value"), fold=("what", "why"))
    for entry in page.experiments:
        shown.add_row(*_row(entry, summary.rung)[: len(names)])
    first = offset + 1 if page.experiments else 0
    end = Text(
        f"experiments {first}-{offset + len(page.experiments)} of {page.matching}; "
        f"one of them: nightlab show {summary.campaign.id}-N",
        style="dim",
    )
    title = text(f"{summary.campaign.id}: {summary.campaign.goal}", "bold")
    return Group(Panel(facts(_summary(summary)), title=title, title_align="left"), shown, end)


def experiment(
    found: Experiment,
    trials: Sequence[Trial],
    decisions: Sequence[Decision],
    metric: str,
    calls: Sequence[Call] = (),
    spectra: Told | None = None,
) -> RenderableType:
    """One experiment with its trials, its spectra, the decisions behind it and what models were
    asked."""
    title = text(f"{found.id}: {words.title(found)}", "bold")
    parts: list[RenderableType] = [
        Panel(facts(_experiment(found)), title=title, title_align="left")
    ]
    if trials:
        parts.append(_trials(trials, metric))
    if spectra:
        parts.append(_spectra(spectra))
    if decisions:
        table = columns(
            "decided", "action", "chance", "policy", right=("chance",), fold=("action",)
        )
        for decision in decisions:
            chance = words.number(decision.propensity)
            policy = f"{decision.policy} {decision.version}"
            table.add_row(decision.head, text(decision.action), chance, text(policy))
        parts.append(table)
    parts += [_call(number, call) for number, call in enumerate(calls, 1)]
    return Group(*parts)


def _spectra(seen: Told) -> RenderableType:
    """The compact table; what is far from the incumbent's is bold."""
    titles = [title for _, title in SHOWN]
    table = columns("spectra", *titles, right=titles)
    for third, cells in seen.rows:
        shown = [
            Text(str(cell) if cell else "-", style="bold" if cell and _far(cell) else "")
            for cell in cells
        ]
        table.add_row(third, *shown)
    notes = [seen.caption, *seen.remarks, "advisory: spectra explain and never score"]
    return Group(table, text("\n".join(notes), "dim"))


def _far(cell: Shown) -> bool:
    return cell.z is not None and abs(cell.z) > FAR


def _call(number: int, call: Call) -> RenderableType:
    """One question to a model, whole: what it cost, what was asked, what came back."""
    price = "price unknown" if call.usd is None else f"{call.usd:.5f} USD"
    cost = f"{call.tokens_in} + {call.tokens_out} tokens, {price}, {call.latency_seconds:.1f} s"
    title = text(f"call {number}: {call.model}, {cost}{', ' if call.error else ''}{call.error}")
    asked = [text("asked", "bold"), text(call.prompt), text("answered", "bold"), text(call.reply)]
    return Panel(Group(*asked), title=title, title_align="left")


def trial(found: Trial) -> RenderableType:
    """One trial: how it ended, what was measured, what it printed."""
    run, measured = found.run, found.measurement
    rows: list[tuple[str, RenderableType]] = [
        ("program", found.program),
        ("rung, seed", f"{found.rung}, {found.seed}"),
        ("purpose", f"{found.purpose}, {found.arm}"),
        ("status", f"{found.status}, attempt {found.attempt}"),
    ]
    if run:
        rows += [
            ("ended", text(f"{run.ending}{': ' + run.reason if run.reason else ''}")),
            ("sandbox", text(f"{run.tier} {run.image}".strip())),
            ("wall, CPU", f"{words.duration(run.wall_seconds)}, {words.duration(run.cpu_seconds)}"),
            ("overhead", words.duration(found.overhead_seconds)),
            ("peak memory", f"{run.peak_memory_bytes / 2**20:,.0f} MiB"),
        ]
    if measured:
        rows.append(("integrity", text(": ".join([measured.integrity, *measured.reasons]))))
        rows += [(name, words.number(value)) for name, value in measured.metrics.items()]
    if found.holdout:
        held = found.holdout.metrics.items()
        rows += [(f"{name} (hold-out)", words.number(value)) for name, value in held]
    rows += [
        (text(f"file {name}").plain, f"{file.sha256} ({file.bytes:,} bytes)")
        for name, file in found.artifacts.items()
    ]
    panel = Panel(facts(rows), title=Text(found.id, style="bold"), title_align="left")
    if run is None or not run.log:
        return panel
    return Group(panel, Panel(text(run.log), title="what it printed (self-reported)"))


def events(lines: Sequence[Event]) -> RenderableType:
    """Lines of the log."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    known = {str(value): style for value, style in STYLES.items()}
    for line in lines:
        table.add_row(
            words.time(line.time),
            line.experiment or line.campaign,
            text(line.kind, known.get(line.kind, "")),
            text(line.message),
        )
    return table


def patch(diff: str) -> RenderableType:
    """A diff in colour."""
    shown = Text()
    for line in words.clean(diff).splitlines(keepends=True):
        style = "bold" if line.startswith(("+++", "---")) else _DIFF_STYLES.get(line[:1], "")
        shown.append(line, style=style)
    shown.rstrip()
    return shown


_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def _summary(summary: Summary) -> Iterable[tuple[str, RenderableType]]:
    campaign, objective, best = summary.campaign, summary.campaign.objective, summary.best
    yield "status", text(f"{campaign.status}{': ' + campaign.reason if campaign.reason else ''}")
    bounds = "; ".join(str(constraint) for constraint in objective.constraints)
    wish = f"{objective.metric}, {objective.direction} is better, {words.target(objective)}"
    yield "goal", text(wish + (f"; {bounds}" if bounds else ""))
    yield "on", text(f"{campaign.task}, {campaign.tier} sandbox, {campaign.proposer} proposer")
    yield "baseline", f"{words.level(summary.baseline)} on the {summary.rung or '-'} rung"
    noise = summary.noise.get(summary.rung or "")
    yield "noise floor", words.level(noise)
    if best and best.experiment.number > 0:
        gain = Text(words.percent(best.gain_percent), style="bold green")
        yield "best", Text.assemble(f"{words.level(best.level)} ({best.experiment.id}), ", gain)
        if best.holdout_gain_percent:
            yield "on hold-out", f"{words.percent(best.holdout_gain_percent)} better"
        yield "edits", text(", ".join(best.edits))
    else:
        yield "best", "no improvement confirmed"
    if words.reached(summary):
        yield "target", words.reached(summary)
    yield "tried", words.counted(summary.counts, summary.under_way)
    if early := aborts.described(summary.aborts):
        yield "aborted", early
    used = f"{summary.spent.trials} trials, {words.duration(summary.spent.wall_seconds)}"
    yield "used", f"{used} of {words.budget(objective.budget)}"
    yield "overhead", f"{words.duration(summary.overhead_seconds)} a trial (median)"
    if summary.report:
        yield "report", text(summary.report)


def _row(entry: ArchiveEntry, rung: str | None) -> list[RenderableType]:
    found = entry.experiment
    known = entry.scores.get(rung or "")
    other = next(iter(entry.scores.items()), None)
    value = words.number(known)
    if known is None and other is not None:
        value = f"{words.number(other[1])} ({other[0]})"
    return [
        found.id,
        text(words.title(found)),
        verdict(found.verdict) if found.number else Text("baseline"),
        words.signed(found.estimate.gain),
        value,
        found.parent or "-",
        text(found.author or "-"),
        text(found.reason, "dim"),
    ]


def _experiment(found: Experiment) -> Iterable[tuple[str, RenderableType]]:
    estimate = found.estimate
    known = verdict(found.verdict) if found.number else Text("baseline")
    yield "verdict", Text.assemble(known, text(f"  {found.reason}"))
    yield "hypothesis", text(found.hypothesis or "-")
    yield "part, operator", text(f"{found.part or '-'}, {found.operator or '-'}")
    yield "by", text(found.author or "-")
    yield "parent", found.parent or "-"
    yield "program", f"{found.program or '-'} (+{found.lines_added} -{found.lines_removed} lines)"
    if estimate.gain is not None:
        gain = words.ranged(estimate.gain, estimate.gain_low, estimate.gain_high)
        pairs = f"{estimate.pairs} pair{'' if estimate.pairs == 1 else 's'}"
        yield "gain", f"{gain} over {estimate.against or '-'}, {pairs}, {estimate.rung or '-'} rung"
    if estimate.holdout_gain is not None:
        held = words.ranged(estimate.holdout_gain, estimate.holdout_low, estimate.holdout_high)
        yield "hold-out gain", f"{held}, level {words.number(estimate.holdout)}"
    began = words.time(found.created)
    yield "began, ended", f"{began}, {words.time(found.concluded) if found.concluded else '-'} UTC"


def _trials(trials: Sequence[Trial], metric: str) -> RenderableType:
    names = ("trial", "ended", metric, "hold-out", "CPU", "overhead")
    table = columns(*names, right=names[2:])
    for found in trials:
        run = found.run
        held = found.holdout.metrics.get(metric) if found.holdout else None
        table.add_row(
            found.id.removeprefix(f"{found.experiment}/"),
            text(run.ending if run else found.status),
            words.number(found.value(metric)),
            words.number(held),
            words.duration(run.cpu_seconds if run else None),
            words.duration(found.overhead_seconds),
        )
    hint = f"one of them: nightlab show {trials[0].id}"
    return Group(table, Text(hint, style="dim"))
