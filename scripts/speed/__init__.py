"""The parts of `benchmark_speed.py`: what is timed, against whom, and how it is written down."""
