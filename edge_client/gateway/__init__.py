"""A local HTTP server for the OpenAI API: encodes images here, and sends indices to the cloud."""
