"""An unprivileged process sandbox for Linux."""
