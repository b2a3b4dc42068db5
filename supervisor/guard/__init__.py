"""The supervisor proper: one lean process per guest (standard library and prctl only)."""
