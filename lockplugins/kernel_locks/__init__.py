"""The kernel's file locks, for every plugin whose leases are such: taken, named, tried."""
