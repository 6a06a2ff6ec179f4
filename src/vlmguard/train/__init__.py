"""Training a rewriter on any base VLM. TRL, PEFT and accelerate do the training; rows, checks, measures and the way back into
serving are ours.

Read ``sft.py`` first: it is the way of one run. ``rows.py`` says what is trained on, ``run.py`` what a run's folder holds.
"""
