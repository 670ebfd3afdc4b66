"""OpenAI's chat API: parses requests; formats answers and errors."""
