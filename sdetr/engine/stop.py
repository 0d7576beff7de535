"""Signals that ask a job to stop: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a closed terminal)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from sdetr.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDERR = 2

Agree = Callable[[int], tuple[int, ...]]


class Stopped(BaseException):
    """A signal asked this process to stop; the message is one line for the user.

    Not an Exception, as KeyboardInterrupt is none: whoever goes on after errors must not go on after this.
    """

    def __init__(self, number: signal.Signals, text: str) -> None:
        super().__init__(text)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell gives for a process that died of the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class Stop:
    """Where a job learns that it is asked to stop; without `listening` nobody asks.

    A signal raises `Stopped` at once, but inside `held` only when that ends, and inside `together` when all processes
    stop. The second SIGINT kills the process.
    """

    def __init__(self) -> None:
        self._number: signal.Signals | None = None
        self._held = False
        self._agree: Agree | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal came; within `together`, to any of the processes, which all ask at the same time."""
        return self._asked() is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive the signals until the block ends; one that this process was started to ignore stays ignored."""
        # Python receives signals in the main thread only; a job that is called in another one leaves them alone.
        mine = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.getsignal(number) for number in mine}
        heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in heard:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in heard.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work that must not be broken off: `Stopped` waits until its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    def end(self) -> None:
        """From now on a signal changes nothing but the second SIGINT: the job is at its end, and says why."""
        self._held = True

    @contextmanager
    def together(self, agree: Agree | None) -> Iterator[None]:
        """Work of several processes that stop after the same step: they agree at each `requested` and `check`.

        Args:
            agree: gives the largest number of all processes; None: there is only this one.
        """
        self._agree = agree
        try:
            yield
        finally:
            self._agree = None

    @contextmanager
    def recognised(self) -> Iterator[None]:
        """Turn what became of a `Stopped` in the block back into one; any other error for the user stays what it is.

        Raised where Python makes a class, starts an extension or calls back from C, it comes out as another error.
        """
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            if _comes_from_stopped(error) or not isinstance(error, UserError):
                self._raise(self._number)
            raise

    def check(self) -> None:
        """Raise `Stopped` if a signal came; one that was raised inside a destructor was lost there."""
        self._raise(self._asked())

    def _asked(self) -> signal.Signals | None:
        if self._agree is None:
            return self._number
        (number,) = self._agree(self._number or 0)
        return signal.Signals(number) if number else None

    @staticmethod
    def _raise(number: signal.Signals | None) -> None:
        if number is not None:
            raise Stopped(number, f"stopped by {number.name}")

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._number is not None:
            return
        self._number = signal.Signals(number)
        if signal.getsignal(signal.SIGINT) == self._receive:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._held or self._agree is not None:
            text = f"{self._number.name}: stops as soon as nothing is lost by it; Ctrl-C quits at once\n"
            # Not through logging: its stream may be in the middle of a line.
            with suppress(OSError):
                os.write(_STDERR, text.encode())
        else:
            self._raise(self._number)


def _comes_from_stopped(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error is not None
