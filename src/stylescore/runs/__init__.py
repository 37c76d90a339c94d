"""The folder, the record and the resuming of a run, the same for every command; and the runner of `stylize`."""
