"""Pure functions of tensors: no module state, no randomness, no input or output."""
