"""Timings side by side with peer libraries; ``python -m benchmarks`` runs them all and rewrites ``benchmarks/README.md``."""
