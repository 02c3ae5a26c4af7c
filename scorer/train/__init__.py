"""Training: requests of the past, and the steps that learn from them."""
