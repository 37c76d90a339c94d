"""The paper: scores, directions, relevance map, spectrum, timesteps, fake score, and the loop that fits a subject."""
