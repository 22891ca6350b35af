"""The command line: ``nightlab --help``. Each command imports the heavy libraries it needs."""

import sys

import typer

from nightlab import (
    benching,
    data_commands,
    doctor,
    learning,
    overnight,
    reading,
    running,
    sandbox_commands,
    spectra,
    steering,
    task_commands,
)
from nightlab.errors import NightlabError

app = typer.Typer(
    name="nightlab",
    help="An autonomous research lab for neural architectures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for part in (
    running.app,
    steering.app,
    overnight.app,
    reading.app,
    learning.app,
    spectra.app,
    doctor.app,
):
    app.registered_commands += part.registered_commands
app.add_typer(task_commands.app, name="task", help="The tasks a campaign can run on.")
app.add_typer(data_commands.app, name="data", help="The text that tasks train on.")
app.add_typer(sandbox_commands.app, name="sandbox", help="The trainer image and the tiers.")
app.add_typer(benching.app, name="bench", help="Measure every claim again on this machine.")


def main() -> None:
    """Run one command; our own errors become a line on stderr and their exit code."""
    try:
        app()
    except NightlabError as error:
        print(f"nightlab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
