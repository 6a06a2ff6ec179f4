"""Evaluation: benchmarks × targets × defences × judges, with honest statistics (``vlmguard eval``, ``vlmguard report``)."""
