"""Where and how networks compute: devices, offloading, merged copies, tiles."""
