"""Methods compared on the same photos: a grid of runs, their figures and costs, and a report in one page."""
