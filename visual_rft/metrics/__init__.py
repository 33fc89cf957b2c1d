"""Metrics: what was predicted and what was true to numbers, one module a task kind. No files, no prints."""
