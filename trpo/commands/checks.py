"""Whether a run of a configuration can start here at all."""

from trpo.config import Config
from trpo.models.agent import Agent
from trpo.sampling.interface import Interface
from trpo.sampling.making import check_environment
from trpo.system.device import resolve_device
from trpo.trainer import action_values_for, agent_for


def check_can_start(config: Config, interfaces: dict[str, Interface]) -> Agent:
    """Return an agent as the run would make it.

    Raises `UserError` for a device that is not there, and for an environment, spaces or networks that do not go
    together. `interfaces` remembers environments from one job to the next.
    """
    resolve_device(config)
    if (environment := repr(config.env)) not in interfaces:
        interfaces[environment] = check_environment(config.env)
    agent = agent_for(config, interfaces[environment])  # refuses what does not go with observations or actions
    action_values_for(config, interfaces[environment])  # so does this
    return agent
