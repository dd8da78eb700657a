"""`python -m sandlock_cli`: the command, where its script is not installed."""

from __future__ import annotations

from sandlock_cli.main import main

main()
