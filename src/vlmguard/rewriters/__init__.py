"""The rewriters: they find the risk in a chat and refine its prompt."""
