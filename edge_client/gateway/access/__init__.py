"""Access control of the gateway: the Host check against other web sites, and API keys."""
