"""Which addresses may be called, and when an endpoint that fails is left alone."""
