"""Certificates: issuing, reloading while serving, and revocation."""
