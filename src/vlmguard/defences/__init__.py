"""Defences: what stands between a chat and a target. vlmguard is one, no defence is one, and the field's baselines are."""
