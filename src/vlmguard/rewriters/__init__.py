"""Rewriters: they judge a chat in the paper's reasoning steps and refine its prompt."""
