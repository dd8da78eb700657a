"""The one view of files: what a path means inside the sandbox."""
