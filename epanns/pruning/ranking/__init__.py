"""Which channels matter: criteria, and what they measure."""
