"""lock-supervisor: a guest runs only while every lease on its disks is held."""

__version__ = "0.2.0"
