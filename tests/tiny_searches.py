"""Searches of a few tiny runs, what is in their studies, and what may happen to them on the way."""

import signal

from tiny_runs import TINY

from trpo.commands.search import checked_search, search_parser
from trpo.search.study import opened
from trpo.trainer import Trainer

TINIER = (*TINY, "run.evaluate_every=32")  # three evaluations
PAID = ("env.id=probes:Paid-v0", *TINIER)
PAY = "+env.kwargs.pay=interval(0.25,0.75)"
KL = "trust_region.max_kl=tag(log,interval(0.005,0.1))"


def line(*words, trials=1, seeds=1, storage="s/x.log"):
    return [*words, f"--trials={trials}", f"--seeds={seeds}", f"--storage={storage}"]


def asked(*words, **options):
    """The search that a line asks for."""
    return checked_search(search_parser().parse_intermixed_args(line(*words, **options)))


def trials_of(directory, storage="s/x.log"):
    return opened(directory / storage).get_trials()


def disturb(monkeypatch, happens, when):
    """Let something happen at the start of an iteration."""
    iterate = Trainer.iterate

    def disturbed(trainer):
        if when(trainer):
            happens()
        return iterate(trainer)

    monkeypatch.setattr(Trainer, "iterate", disturbed)


def crash():
    raise RuntimeError("the simulator fell over\nand said why")


def terminate():
    signal.raise_signal(signal.SIGTERM)


def interrupt():
    signal.raise_signal(signal.SIGINT)


def interrupt_twice():
    interrupt()
    interrupt()


STOPS = {"SIGTERM": (terminate, 143), "Ctrl-C": (interrupt, 130), "twice": (interrupt_twice, 130)}
