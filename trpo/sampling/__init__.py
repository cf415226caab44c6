"""The only room that knows Gymnasium: environments, rollouts, evaluation."""
