"""What a person types: one file a command, and what stands between the arguments and a run."""
