"""The cloud half: rebuilds features from payloads and answers questions about them."""
