"""Can this host keep the promise? Proven where it can be tried, read where it cannot."""
