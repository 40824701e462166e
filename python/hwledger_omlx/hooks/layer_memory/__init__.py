"""Patch 002-layer-memory: what a request and its layers take, seen from the fork's scheduler."""
