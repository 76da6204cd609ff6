"""Rewards that ask a VLM judge: a vision-language model at an OpenAI-compatible API."""
