"""Who may call the gateway: the guard against other web pages, and API keys."""
