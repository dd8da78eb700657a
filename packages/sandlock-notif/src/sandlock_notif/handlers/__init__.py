"""Handler tables, one file per domain."""
