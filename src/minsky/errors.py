"""One exception for everything that a user can mend, and the one place that prints it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable


class MinskyError(Exception):
    """Something a user can mend: what was found, why it cannot work, what to type instead."""

    status = 2  # with which the command ends


def speak_plainly(main: Callable[[], int | None]) -> int:
    """Run *main*; a MinskyError becomes a sentence on stderr and its status, Ctrl-C status 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every letter
    try:
        return main() or 0
    except MinskyError as error:
        print(f"minsky: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("minsky: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
