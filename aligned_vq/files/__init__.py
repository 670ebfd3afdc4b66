"""Files and folders that are replaced whole, and YAML and JSON that is checked when read."""
