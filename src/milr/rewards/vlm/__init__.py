"""Rewards that ask a VLM judge: a vision-language model behind an OpenAI-compatible API."""
