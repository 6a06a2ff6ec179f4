"""Public benchmarks, read from what the user downloaded. Nothing is fetched here, and no test set ships with the package."""
