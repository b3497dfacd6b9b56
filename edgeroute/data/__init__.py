"""Prompts and labels in files: read, converted, cleaned and split."""
