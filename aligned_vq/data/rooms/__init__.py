"""The reference rooms: furnished rooms in 3-D, ray-cast to colour and metric depth."""
