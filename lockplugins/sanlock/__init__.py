"""The plugin `sanlock`: leases on shared storage, in the layout of libvirt's sanlock driver."""
