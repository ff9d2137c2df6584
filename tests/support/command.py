"""The command as a user gives it, in this process: a new one takes as long as most of what it is to show."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from gemma3build.cli.app import main


def run_command(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end.

    Args:
        arguments: what follows its name.
        cwd: where; None for here.
        environment: all of it; None for that of this process.
    """
    given = [str(argument) for argument in arguments]
    status: object = 0
    handler = signal.getsignal(signal.SIGTERM)
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", ["gemma3build", *given]),
        mock.patch.dict(os.environ, environment or {}, clear=environment is not None),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    assert isinstance(status, int), status
    return subprocess.CompletedProcess(given, status, out.getvalue(), err.getvalue())
