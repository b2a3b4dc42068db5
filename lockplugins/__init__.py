"""The lock managers that can hold a guest's leases: the contract, the registry, the plugins."""
