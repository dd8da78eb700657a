"""riscv64: one file per subject, the same files as in the other architectures."""
