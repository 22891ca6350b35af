"""``nightlab overnight``: the same loop, headless, until a time of day.

The campaign runs in a child process; when that dies without having finished (a crash, kill -9, the
out-of-memory killer), it is resumed. What it writes goes to ``overnight.log`` beside the report.
"""

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from nightlab import explaining
from nightlab.errors import NightlabError, UsageError
from nightlab.reading import print_screen, reading
from nightlab.running import (
    Approve,
    Data,
    Goal,
    Proposer,
    Seed,
    TaskName,
    Tier,
    Unsafe,
    Workers,
    Yes,
)

app = typer.Typer()
RESUMES_AN_HOUR = 6
"""More deaths than this within an hour are no accident: give up and say so."""


@app.command()
def overnight(
    goal: Goal,
    until: Annotated[str, typer.Option(help="Time of day, such as 07:00.")],
    task: TaskName = "byte_lm",
    data: Data = None,
    workers: Workers = 2,
    proposer: Proposer = "auto",
    sandbox: Tier = "auto",
    seed: Seed = None,
    max_gpu_hours: Annotated[float | None, typer.Option(min=0.0)] = None,
    max_usd: Annotated[float | None, typer.Option(min=0.0)] = None,
    unsafe: Unsafe = False,
    approve: Approve = False,
    yes: Yes = False,
) -> None:
    """Run headless until a time of day; survives kill -9; writes a morning report."""
    from nightlab.running import begun

    end = next_time(until, datetime.now().astimezone())
    campaign = begun(
        goal,
        task=task,
        data=data,
        until=end,
        workers=workers,
        proposer=proposer,
        sandbox=sandbox,
        seed=seed,
        unsafe=unsafe,
        usd=max_usd,
        gpu_seconds=None if max_gpu_hours is None else 3600 * max_gpu_hours,
        approve=approve,
        yes=yes,
    )
    with reading() as (_, settings):
        folder = settings.reports / campaign
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"campaign {campaign} runs until {until}; log: {folder / 'overnight.log'}", file=sys.stderr
    )
    Night(campaign, folder / "overnight.log").watch()
    _report(campaign)


def next_time(clock: str, now: datetime) -> datetime:
    """The next time after ``now`` at which the clock shows ``HH:MM``.

    Raises:
        UsageError: not a time of day.
    """
    try:
        at = datetime.strptime(clock, "%H:%M").time()
    except ValueError:
        raise UsageError(f"--until {clock!r} is not a time of day: write it as 07:00") from None
    then = now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
    if then <= now:
        then += timedelta(days=1)
    return then


class Night:
    """Keeps one campaign's supervisor alive until it has finished."""

    def __init__(self, campaign: str, log: Path) -> None:
        self.campaign, self.log = campaign, log
        self.child: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def watch(self) -> None:
        """Until the campaign has finished or somebody stopped it.

        Raises:
            NightlabError: it keeps dying.
        """
        deaths: list[float] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        while self._resume() and not self.stopped:
            deaths = [t for t in deaths if time.monotonic() - t < 3600] + [time.monotonic()]
            if len(deaths) > RESUMES_AN_HOUR:
                raise NightlabError(
                    f"campaign {self.campaign} died {len(deaths)} times within an hour: see "
                    f"{self.log}, then `nightlab resume {self.campaign}`"
                )

    def _resume(self) -> bool:
        """Run the campaign in a child; whether it died by a signal that nobody sent through us."""
        command = [sys.executable, "-m", "nightlab", "resume", self.campaign, "--headless"]
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
            return self.child.wait() < 0

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.stopped = True
        if self.child is not None and self.child.poll() is None:
            os.kill(self.child.pid, number)


def _report(campaign: str) -> None:
    from nightlab.memory.records import CampaignStatus
    from nightlab.memory.report import screens
    from nightlab.memory.report.summary import summarise
    from nightlab.memory.report.write import write_report

    with reading() as (ledger, settings):
        sections = explaining.sections(ledger, settings.folder, campaign)
        written = write_report(ledger, campaign, settings.reports, sections)
        summary = summarise(ledger, campaign, settings.reports)
        print_screen(screens.campaign(summary, ledger.page(campaign, limit=10)))
        print(f"report  {written.markdown}")
        if summary.campaign.status is CampaignStatus.FAILED:
            raise typer.Exit(1)
