"""Certificates: made, read again while serving, and refused before they end."""
