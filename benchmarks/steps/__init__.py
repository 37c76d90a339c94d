"""What an iteration costs: time, passes and memory, by family, precision, batch and mode."""
