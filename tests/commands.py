"""The command ``physscore``, called here or in a process of its own."""

import contextlib
import io
import subprocess
import sys
import warnings
from subprocess import CompletedProcess
from unittest import mock

from physscore.cli import main


def physscore(*args, cwd, code=0, own_process=False, **options):
    """Run the command; check its exit code, and that there is no traceback.

    Here: what ``python -m physscore`` does, without the second that a process takes to begin. With options of
    ``subprocess.run``, or where a process's own beginning is what is tested, in one of its own.
    """
    arguments = [str(arg) for arg in args]
    if own_process or options:
        command = [sys.executable, "-m", "physscore", *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)
    else:
        done = _here(arguments, cwd)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def _here(arguments, cwd):
    out, error, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error),
        mock.patch.object(sys, "argv", ["physscore", *arguments]), warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("default")
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return CompletedProcess(["physscore", *arguments], code, out.getvalue(), error.getvalue())
