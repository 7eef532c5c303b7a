"""Smaller and faster networks: pruning, latency, few bits."""
