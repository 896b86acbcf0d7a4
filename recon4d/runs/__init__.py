"""One reconstruction as commands and the web app run it: its stages, its refinement step, its report in words."""
