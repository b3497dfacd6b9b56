"""The bundles that the wheel carries, one folder each, and ``index.json`` with their digests."""
