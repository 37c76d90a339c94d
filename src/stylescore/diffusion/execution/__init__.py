"""Where and how networks compute: devices, offload, merged copies, windows."""
