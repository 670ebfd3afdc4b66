"""Who may ask and how much: names, tokens, quotas and files that are read again while serving.

Cloud service and gateway share it; it knows neither gRPC nor HTTP.
"""
