"""Patch 002: samples what every layer of every request holds, while the fork's scheduler runs."""
