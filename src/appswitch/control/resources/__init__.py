"""What users configure: from documents (`documents`) to what the switch is told (`service`), kept on disk (`store`)."""
