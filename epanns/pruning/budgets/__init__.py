"""What a network may cost, and how that is shared out among its layers."""
