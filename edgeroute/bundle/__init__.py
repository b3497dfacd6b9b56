"""A router on disk: its manifest, its files, where bundles are found and how they are fetched."""
