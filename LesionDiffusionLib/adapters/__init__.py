"""Optional outsiders, one file each."""
