"""The connection to one or more services: credentials, circuit breakers, retries and failover."""
