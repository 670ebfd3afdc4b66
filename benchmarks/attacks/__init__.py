"""Attacks on running services: what good clients lose by them."""
