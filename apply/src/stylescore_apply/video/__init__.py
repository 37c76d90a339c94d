"""Stylizes videos frame by frame: with one noise field, in constant memory, the sound and the times of frames kept."""
