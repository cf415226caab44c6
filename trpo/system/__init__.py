"""What a process has to do with its machine: ranks, devices, seeds, signals, time."""
