"""The command ``physscore``: one file a command; each parses, calls public functions, prints.

Commands are imported when they are called, so that ``physscore --help`` is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from physscore._version import __version__

_COMMANDS = {
    "audit": "Compare maps with a reference set, or look at a score: can they be trusted?",
    "field": "Generate density fields, write them to HDF5 and check their power spectrum.",
    "info": "Say what is in a file.",
    "logz": "Estimate log Z of models, with an error and a verdict, and compare them.",
    "multipoles": "Measure how the power of fields depends on a line of sight.",
    "paint": "Put particles of snapshots or catalogues on a grid.",
    "sample": "Draw from a built-in model or your own, and say whether the chains have mixed.",
    "spectrum": "Measure the power spectrum of fields and compare it with a model.",
    "train": "Learn a score from a file of maps or vectors.",
}
_ALONE = ("audit", "info", "multipoles", "paint", "train")


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name in _ALONE and _others() is not None:
            raise click.UsageError(f"{cmd_name} is for one process: start it without mpiexec")
        command = import_module(f"physscore.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="physscore")
def physscore() -> None:
    """From a score to fields, numbers and samples."""


def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit code 2."""
    try:
        _run()
    except (click.exceptions.Abort, KeyboardInterrupt):  # Ctrl-C, in a command or before it
        _leave(lambda: click.echo("interrupted: what was finished is kept", err=True), 130)


def _run() -> None:
    from physscore.core import InputError

    warnings.showwarning = lambda message, *_: _warn(message)
    try:
        code = physscore.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        _leave(error.show, error.exit_code)
    except click.exceptions.Abort:
        raise
    except (InputError, ImportError) as error:
        text = f"Error: {error}"
        _leave(lambda: click.echo(text, err=True), 2)
    except OSError as error:
        text = f"Error: {error.filename or 'the output'} cannot be written or read: {error.strerror or error}"
        _drop_output()
        _leave(lambda: click.echo(text, err=True), 2)
    except MemoryError:
        text = "Error: the memory is used up: use a smaller grid, fewer particles or chains, or dtype float32"
        _leave(lambda: click.echo(text, err=True), 2)
    except Exception:
        if _others() is None:
            raise
        _leave(traceback.print_exc, 1)  # the others would wait for this one


def _drop_output() -> None:
    """Have what cannot be printed not tried again at the end of the process."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(message: Warning | str) -> None:
    """Tell of a warning, of several processes the first: all have the same."""
    others = _others()
    if others is None or others.rank == 0:
        click.echo(f"Warning: {message}", err=True)


def _leave(say: Callable[[], None], code: int) -> None:
    """Tell of an error and end, as one of several processes if there are."""
    if _others() is not None:
        from physscore.processes import leave

        leave(say, code)
    say()
    sys.exit(code)


def _others() -> Any:
    """Return the communicator of all processes; None where none can be spoken with."""
    if not any(name.startswith(("PMI", "OMPI_")) for name in os.environ):  # mpiexec leaves such
        return None
    from physscore.core import InputError
    from physscore.processes import world

    try:
        return world()
    except InputError:  # which the command says
        return None
