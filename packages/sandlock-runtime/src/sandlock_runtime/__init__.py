"""Sandbox: launch a confined program, live with it, report its result."""
