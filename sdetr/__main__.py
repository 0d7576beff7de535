"""``python -m sdetr`` is the ``sdetr`` command."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command as a program of its own; returns the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends it at once. As an exception it gets lost in libraries that are being loaded, and breaks them.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sdetr.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
