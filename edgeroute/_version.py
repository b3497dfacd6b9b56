"""The version, alone, so that any room may import it."""

__version__ = "0.2.0"
