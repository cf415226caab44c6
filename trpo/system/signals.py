"""SIGTERM, SIGUSR2, SIGHUP and Ctrl-C as a request to stop at the end of the iteration."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

# SIGHUP comes from a terminal that was closed, SIGUSR2 from Slurm when the time of a job is up.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class StopRequest:
    """While entered, these signals are remembered; a SIGINT after any of them interrupts at once.

    Of two that are entered one in the other, both remember it, and the inner one what came before it was entered.

    `told` is called with the name of every one.
    """

    def __init__(self, told: Callable[[str], object] | None = None) -> None:
        self.received: signal.Signals | None = None
        self.told = told
        self.outer: StopRequest | None = None

    def __enter__(self) -> "StopRequest":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            for number in STOPPING:
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # nohup: the run is to go on without its terminal
                self.previous[number] = signal.signal(number, self._receive)
                if isinstance(outer := getattr(self.previous[number], "__self__", None), StopRequest):
                    self.outer, self.received = outer, outer.received
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self.told:
            self.told(self.received.name)
        if self.outer:
            self.outer._receive(number, frame)
