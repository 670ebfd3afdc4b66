"""The default engine: transformers' language model with continuous batching."""
