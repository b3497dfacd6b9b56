"""What routing would be worth: metrics, benchmarks and plots."""
