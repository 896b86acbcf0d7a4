"""Training of the generative head of motion on synthetic scenes, with the model that gives tokens frozen."""
