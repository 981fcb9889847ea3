"""Endpoint families: requests to engine requests, engine events to responses."""
