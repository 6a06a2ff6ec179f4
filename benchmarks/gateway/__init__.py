"""How fast the gateway is beside a bare pass-through and LiteLLM's proxy: ``python -m benchmarks.gateway``."""
