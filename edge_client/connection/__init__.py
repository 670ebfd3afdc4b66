"""The connection to one or more services: addresses, credentials, retries and fail-over."""
