"""The reference world: rendered scenes, and questions about them with one correct answer each."""
