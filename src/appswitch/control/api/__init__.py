"""REST under /v1: see `application.create`."""
