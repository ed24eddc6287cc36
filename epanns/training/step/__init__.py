"""One optimisation step."""
