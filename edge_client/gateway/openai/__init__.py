"""OpenAI's chat API: requests read, answers and errors written."""
