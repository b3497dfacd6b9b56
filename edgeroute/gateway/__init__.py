"""Choose an endpoint and call it: settings, retries, answers, budget."""
