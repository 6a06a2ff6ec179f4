"""Perception: what can be seen in pixels and text without a model that understands scenes."""
