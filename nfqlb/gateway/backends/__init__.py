"""Backends as the supervisor has them: what the configuration and the operator want, what is known of their health, and
the tables that follow.
"""
