"""The run folder, its record, and the runner that keeps what a run yields."""
