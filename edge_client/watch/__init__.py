"""Asks a question about each new image of a camera, a video or a folder."""
