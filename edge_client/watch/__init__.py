"""A question for each new picture of a camera, a video or a folder, as it comes."""
