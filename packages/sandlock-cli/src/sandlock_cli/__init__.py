"""The sandlock command."""
