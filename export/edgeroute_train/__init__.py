"""Preference data to checkpoint: everything here needs torch and transformers (extra ``[train]``)."""
