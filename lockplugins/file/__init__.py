"""The plugin `file`: leases as kernel file locks, in the layout of libvirt's lockd driver."""
