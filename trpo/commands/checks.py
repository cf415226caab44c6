"""Whether a run of a configuration can start here at all."""

import re
from pathlib import Path

from trpo.config import Config, EnvConfig, UserError
from trpo.models.action_values import action_values_for
from trpo.models.agent import Agent, load_agent
from trpo.record import checkpoint
from trpo.record.mirror import check_installed
from trpo.record.targets import check_room
from trpo.sampling.interface import Interface
from trpo.sampling.making import check_environment
from trpo.system.device import resolve_device
from trpo.trainer import agent_for


def check_can_start(config: Config, interfaces: dict[str, Interface], *, resume: bool = False) -> Agent:
    """Return an agent as the run would make it.

    Raises `UserError` for a device, a package or a room that is not there, for an environment, spaces or networks that
    do not go together, and for another run's agent that does not fit. `interfaces` remembers environments from one job
    to the next.
    """
    if config.record.wandb:
        check_installed()
    if fallback := config.run.fallback_directory:
        check_room(Path(fallback), f"run.fallback_directory={fallback}")
    resolve_device(config)
    if (environment := repr(config.env)) not in interfaces:
        interfaces[environment] = check_environments(config.env)
    interface = interfaces[environment]
    agent = made(config, interface)
    if config.run.init_from and not resume:
        file, state = checkpoint.read(Path(config.run.init_from))
        load_agent(agent, state, f"{file} (run.init_from)")
    return agent


def made(config: Config, interface: Interface) -> Agent:
    """Return an agent. Raises `UserError` if networks do not go with observations or actions, or into the memory."""
    try:
        agent = agent_for(config, interface)
        action_values_for(config, interface.observations, interface.distribution)
    except RuntimeError as error:  # for which torch has no class of its own
        if not re.search("allocate memory|out of memory|overflow", str(error)):
            raise
        sizes = {name: getattr(config, name).hidden_sizes for name in ("policy", "critic", "action_values")}
        told = ", ".join(f"{name}.hidden_sizes={list(widths)}" for name, widths in sizes.items())
        raise UserError(f"networks do not fit into the memory: {told}") from error
    return agent


def check_environments(config: EnvConfig) -> Interface:
    """Return the interface of the environments to train on. Raises `UserError` if the evaluation's have another one."""
    interface = check_environment(config)
    if config.evaluation_kwargs:
        other = check_environment(config.evaluation)
        for name in ("observation_space", "action_space"):
            if (there := getattr(other, name)) != (here := getattr(interface, name)):
                raise UserError(f"env.evaluation_kwargs: the {name} is {there} with them, and {here} without")
    return interface
