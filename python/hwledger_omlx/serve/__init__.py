"""The engine over HTTP: the fork's own application on one engine, with metrics and health of ours."""
