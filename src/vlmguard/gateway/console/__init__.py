"""The console: what the guard saw, in a browser (docs/console.md). Imported only where the configuration turns it on."""
