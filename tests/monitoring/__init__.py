"""What Prometheus and Grafana are given, tested with Prometheus' own programs and our own processes."""
