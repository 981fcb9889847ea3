"""APIs of other servers over the same functions: requests to those of OpenAI's API, and back."""
