"""The command `trpo-train`: one run, or a sweep."""

from dataclasses import Field

from trpo.commands.compose import tasks
from trpo.commands.exit_codes import command
from trpo.commands.launch import launch
from trpo.console import shown
from trpo.fields import FINITE, describe_range
from trpo.keys import fields_by_key


@command("trpo-train")
def train(arguments: list[str]) -> int:
    """Print the help, or train."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    with shown():
        return launch(arguments)


def help_text() -> str:
    """Return the help of `trpo-train`: tasks and keys come from the files and dataclasses themselves."""
    task_lines = [f"  {name:<33} {environment}" for name, environment in tasks().items()]
    key_lines = [
        f"  {f'{name}={default_of(field)}':<44} {field.metadata['text']}{range_of(field)}"
        for name, field in fields_by_key()
    ]
    return "\n".join(
        [
            "Train a TRPO agent.",
            "",
            "  trpo-train task=cartpole                            a task with its settings",
            "  trpo-train env.id=Acrobot-v1                        any Gymnasium environment",
            "  trpo-train task=hopper seed=3 trust_region.max_kl=0.02",
            "  trpo-train task=hopper surrogate=pathwise           what a step maximises, with its settings",
            "  trpo-train -m task=cartpole,acrobot seed=0,1,2      a sweep: every combination",
            "  trpo-train task=hopper --cfg job                    show the configuration, run nothing",
            "",
            "Tasks (task=…):",
            *task_lines,
            "",
            "Surrogates (surrogate=…), each with the settings that go with it:",
            "  score                     the paper's, the default",
            "  pathwise                  through action values fitted to the last rollouts: learns from fewer steps",
            "",
            "Keys and their defaults:",
            *key_lines,
            "",
            "hydra.run.dir=DIR chooses the run directory, hydra.sweep.dir=DIR that of a sweep. --config-dir DIR adds a",
            "directory with task/NAME.yaml of your own, and _task_surrogate/NAME_SURROGATE.yaml for what comes with",
            "both words alone. --hydra-help explains Hydra's other flags.",
            "Exit codes: 0 finished, 1 a run failed, 2 a mistake on the command line, 129, 130, 140 or 143 saved and",
            "stopped by SIGHUP (a closed terminal), Ctrl-C, SIGUSR2 or SIGTERM.",
        ]
    )


def default_of(field: Field) -> str:
    """Return a field's default as it would be typed."""
    if field.default_factory is dict:
        return "{}"
    if field.default is None:
        return "null"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return str(list(field.default)) if isinstance(field.default, tuple) else str(field.default)


def range_of(field: Field) -> str:
    """Return a field's range in brackets, if its line of help does not say it already."""
    words, choices = describe_range(field), field.metadata["choices"]
    told = choices and all(choice in field.metadata["text"] for choice in choices)
    return "" if told or words == FINITE else f" ({words})"
