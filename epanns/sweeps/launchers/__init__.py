"""Launchers: each runs the trials of a queue by `epanns.sweeps.trial.run_trial`, in processes of its own kind."""
