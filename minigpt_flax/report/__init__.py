"""Render run folders as one HTML page."""
