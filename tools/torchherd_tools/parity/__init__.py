"""Responses compared with those of a reference server."""
