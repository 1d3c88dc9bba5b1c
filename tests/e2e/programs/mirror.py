"""An HTTP server that tells who asked for what: mirror.py PORT NAME [ADDRESS]. A request to /once/... fails with 503 before it
succeeds."""
