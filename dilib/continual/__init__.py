"""Adding classes to a trained network."""
