"""QMP's wire format: read, served on the control pipe, and spoken to QEMU, without blocking."""
