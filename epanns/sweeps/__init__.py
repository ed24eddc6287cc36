"""Many runs: experiments, trials and their records."""
