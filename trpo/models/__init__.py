"""What is learned and saved: networks, distributions as functions of their parameters, running statistics."""
