"""The three-stage dataset synthesis of VLMGuard-R1: hindsight, causal analysis, prompt optimisation, and the gates around them.

Read ``pipeline.py`` first: it is the way of one row. ``prepare.py`` comes before it, ``export.py`` after; the engines run it.
"""
