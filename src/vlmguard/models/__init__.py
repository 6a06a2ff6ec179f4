"""Models: anything that answers a chat (``vlmguard.protocols.Model``)."""
