"""Training of networks: settings, the optimisation step, and runs that resume."""
