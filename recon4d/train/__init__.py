"""Training: optimisation, losses over records, and the loop that turns clips with truth into weights."""
