"""Who may call: connections, identities, admission and quotas."""
