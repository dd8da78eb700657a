"""HTTP access control for sandboxes: rules, certificates, credentials."""

__all__: list[str] = []
