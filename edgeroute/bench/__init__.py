"""What a decision costs on this machine."""
