"""The kernel's flags and choices by name, one module per call family; every entry names its first kernel."""
