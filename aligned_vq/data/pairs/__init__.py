"""Pairs of images of one view: colour, and depth or infrared."""
