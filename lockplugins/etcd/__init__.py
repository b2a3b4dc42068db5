"""Leases in an etcd cluster, without shared lock storage."""
