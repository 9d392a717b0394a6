"""Stored packets and configurations without a running gateway: replay, explain, what a change would do."""
