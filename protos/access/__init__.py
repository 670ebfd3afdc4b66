"""Identity names, tokens, quotas and reloaded files, shared by the cloud service and the gateway.

Independent of gRPC and HTTP.
"""
