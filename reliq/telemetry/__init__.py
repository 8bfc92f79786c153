"""What others want to know: numbers for Prometheus, spans for OpenTelemetry. None of their packages is imported,
and nothing of it costs anything, until it is switched on."""
