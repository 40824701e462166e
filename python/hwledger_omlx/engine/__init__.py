"""The engine: the fork's pool and batched engine, driven in-process.

`session` runs it, `blocking` and `asynchronous` are its faces, `upstream` is the one place that knows the fork's names.
"""
