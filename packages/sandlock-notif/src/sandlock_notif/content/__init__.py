"""Pure generators of virtual files: state in, bytes out."""
