"""What changes the agent: the trust-region step, its objective and figures, and the value fit."""
