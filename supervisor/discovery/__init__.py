"""Which disks a guest will open, read from its command line and its images."""
