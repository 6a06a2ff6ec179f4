"""Training of rewriters."""
