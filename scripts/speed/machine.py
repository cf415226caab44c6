"""The machine and the versions that a figure belongs to."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "envpool", "stable-baselines3", "sb3-contrib", "tianshou")


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return CPU, cores, memory, device and versions in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = {
        "CPU": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }
    if device.type == "cuda":
        machine["GPU"] = torch.cuda.get_device_name(device)
    return machine


def cpu_model() -> str:
    """Return the model as the kernel names it, with its family and number where the name says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":")[::2] for line in lines)
    fields = {name.strip(): value.strip() for name, value in pairs}
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def version(package: str) -> str:
    """Return the version of an installed package, or that it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
