"""Per-architecture facts and encoders: syscall tables, registers, vDSO stubs."""
