"""``vlmguard serve``: the guard before an unmodified model's server. ``app.Gateway`` is the ASGI application."""
