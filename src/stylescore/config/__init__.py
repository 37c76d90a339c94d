"""Every number and name of a run as documented records, their ranges, presets and files. No torch."""
