"""Wire dialects, one file each: request bytes ↔ ``Chat``, and back by splicing only what changed."""
