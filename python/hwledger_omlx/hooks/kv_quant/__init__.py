"""Patch 001: has requests run on layer caches of ours, each layer's at the bits of the policy in force."""
